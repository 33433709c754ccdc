"""The README's examples run, and its commands parse."""

from __future__ import annotations

import re
import shlex

import pytest

from conftest import REPOSITORY
from flatnext import cli
from flatnext.recipes import RECIPES

README = (REPOSITORY / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"^    flatnext (.*?)(?:\s+#.*)?$", README, re.MULTILINE)


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_example_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    if "loss" in names:
        assert 0 < names["loss"].item() < 100


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command):
    cli.make_parser().parse_args(shlex.split(command))


def test_readme_names_every_recipe():
    assert len(EXAMPLES) == 2
    assert len(COMMANDS) >= 8
    for name in RECIPES:
        assert f"`{name}`" in README
