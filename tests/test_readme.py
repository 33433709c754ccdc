"""The examples in the README and the docs run, their commands parse, and their links lead somewhere."""

from __future__ import annotations

import re
import shlex

import pytest
import torch
from places import REPOSITORY

from flatnext import cli
from flatnext.config import RECIPES

README = (REPOSITORY / "README.md").read_text()
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted(REPOSITORY.glob("docs/**/*.md"))]
EXAMPLES = [
    pytest.param(code, id=f"{page.stem}-{page.parent.name}-{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]
SKETCHES = [
    pytest.param(code, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"```py\n(.*?)```", page.read_text(), re.DOTALL))
]
"""Examples that need a model or a service of the reader's."""

COMMANDS = sorted(
    {
        command
        for page in PAGES
        for command in re.findall(r"^(?:    )?flatnext (.*?)(?:\s+#.*)?$", page.read_text(), re.MULTILINE)
    }
)


@pytest.mark.parametrize("code", EXAMPLES)
def test_example_runs(code, tmp_path, monkeypatch):
    (tmp_path / "docs").symlink_to(REPOSITORY / "docs")  # results are read from docs/runs
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "example", "exec"), names)
    if isinstance(names.get("loss"), torch.Tensor):
        assert 0 < names["loss"].item() < 100
    if "epoch" in names:  # a training loop learns: guessing among ten classes is a loss of 2.3
        assert names["loss"].item() < 1.2
    if "result" in names:
        assert names["result"].last.test.accuracy > 0.9


@pytest.mark.parametrize("code", SKETCHES)
def test_sketch_is_python(code):
    compile(code, "sketch", "exec")


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command):
    cli.make_parser().parse_args(shlex.split(command))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


def test_every_recipe_is_documented():
    assert len(EXAMPLES) >= 10
    assert len(COMMANDS) >= 20
    for name in RECIPES:
        assert f"`{name}`" in (REPOSITORY / "docs" / "recipes.md").read_text()
