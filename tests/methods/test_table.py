"""The table of methods: every method is in it, takes the settings it has, and is named in few places."""

from __future__ import annotations

import io
import tokenize
from dataclasses import fields
from pathlib import Path

import oracle_methods
import pytest
from methods_table import METHODS

import flatnext
from flatnext import methods
from flatnext.config import METHODS as SETTINGS
from flatnext.config import RECIPES, Perturbation, recipe
from flatnext.methods.bound_method import keyword_arguments

PACKAGE = Path(flatnext.__file__).parent
OF_THE_RUN = {"optimizer", "generator", "unit", "low", "high"}
OF_THE_STEP = {"perturb_every", "radius_schedule", "m_sharpness", "only", "ascent_share"}


def test_every_method_has_settings_a_rule_a_recipe_and_an_oracle():
    assert set(SETTINGS) == set(methods.RULES) == {method.name for method in METHODS} == set(oracle_methods.RULES)
    for name, kind in SETTINGS.items():
        assert type(recipe(name).method) is kind
        assert getattr(flatnext, name.replace("-", "_")) is methods.RULES[name]
    assert set(SETTINGS) <= set(RECIPES)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_rule_takes_its_settings_by_their_names_and_none_is_ignored(name):
    settings, arguments = {item.name for item in fields(SETTINGS[name])}, set(keyword_arguments(methods.RULES[name]))
    assert arguments - OF_THE_RUN == settings - OF_THE_STEP
    if issubclass(SETTINGS[name], Perturbation):
        assert SETTINGS[name].radius in arguments


def names_in(source):
    """Yield the identifiers and string literals of source code."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            yield token.string
        elif token.type == tokenize.STRING:
            yield token.string.strip("rf'\"")


# Not sgd and amp, which the studies compare, and not sam and asam, after which measures of sharpness are named.
@pytest.mark.parametrize("name", ["adversarial", "momentum-amp", "rmp"])
def test_a_method_is_named_in_at_most_four_files(name):
    words = {name, name.replace("-", "_"), SETTINGS[name].__name__}
    files = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if words & set(names_in(path.read_text(encoding="utf-8")))
    }
    own = f"methods/{name.replace('-', '_')}.py"
    assert files == {"config/method.py", own, "methods/__init__.py", "__init__.py"}
