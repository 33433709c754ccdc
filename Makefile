# The verbs that people and CI share. `make` alone lists them.
PYTHON ?= python3
VENV   ?= .venv
DATA   ?= digits
SEEDS  ?= 5
ARGS   ?=
BIN    := $(VENV)/bin

help:            ## list the verbs
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 16

env: $(VENV)/ready  ## make the pinned environment in .venv
# torch comes first and pinned: asked for by another package, pip might take a build for another device.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -c 'from flatnext import ops; ops.library()'  # compiles them, so that no first run has to
	touch $@

study: env       ## SGD against AMP with statistics, on the digits; DATA=cifar10, SEEDS=n, ARGS='--epochs 3' change it
	$(BIN)/flatnext study --dataset $(DATA) --seeds $(SEEDS) $(ARGS)

test: env        ## the tests
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m 'not slow' -n auto --maxprocesses 8 --dist worksteal

test-slow: env   ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

docs: env        ## the documentation as a site, in site/
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
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
.PHONY: help env study test test-slow docs lint format clean
