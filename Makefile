# The verbs that people and CI share. `make` alone lists them.
PYTHON ?= python3
VENV   ?= .venv
DATA   ?= digits
SEEDS  ?= 5
ARGS   ?=
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check

help:            ## list the verbs
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 16

env: $(VENV)/ready  ## make the pinned environment in .venv
# All but torch has its hashes in the lock: which build of torch an index gives depends on the machine and its device.
# `--no-deps`: the lock is complete, and without it pip refuses whatever depends on torch, which has no hash there.
$(VENV)/ready: pyproject.toml constraints.txt requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes --no-deps --requirement requirements.lock
	$(PIP) --constraint constraints.txt torch
	$(PIP) --no-deps --no-build-isolation --editable .
	$(BIN)/pip check
	$(BIN)/python -c 'from flatnext import ops; ops.library()'  # compiles them, so that no first run has to
	touch $@

lock:            ## write requirements.lock anew, by constraints.txt, with uv (pip install uv)
	printf 'torch ; python_version < "3"\n' > no-torch.txt
	printf '%s\n' setuptools filelock fsspec networkx sympy | uv pip compile pyproject.toml - --extra dev --universal \
	  --python-version 3.11 --constraint constraints.txt --overrides no-torch.txt --no-emit-package httpx2-jsfetch \
	  --generate-hashes --no-annotate --quiet --custom-compile-command 'make lock' --output-file requirements.lock
	rm no-torch.txt

audit: env       ## known vulnerabilities in the pinned packages; skipped where the database does not answer
	@$(BIN)/python .ci/audit.py

study: env       ## SGD against AMP with statistics, on the digits; DATA=cifar10, SEEDS=n, ARGS='--epochs 3' change it
	$(BIN)/flatnext study --dataset $(DATA) --seeds $(SEEDS) $(ARGS)

test: env        ## the tests
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m 'not slow' -n auto --maxprocesses 8 --dist worksteal

test-slow: env   ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

docs: env        ## the documentation as a site, in site/
	$(PIP) --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

lint: env        ## linter, formatter, type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: env      ## format the code
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

clean:           ## remove the environment and caches, not data and runs
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist src/*.egg-info

.DEFAULT_GOAL := help
.PHONY: help env lock audit study test test-slow docs lint format clean
