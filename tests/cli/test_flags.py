"""The flags of the settings."""

from __future__ import annotations

import argparse
import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

from flatnext import cli
from flatnext.cli.flags import add_setting_flags, path, setting_overrides
from flatnext.config import METHODS, MODELS, RECIPES, Config, recipe


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_setting_flags(parser)
    return setting_overrides(vars(parser.parse_args(arguments)))


def test_every_setting_has_a_flag_and_names_are_unique():
    parts = [Config, *(type(v) for v in vars(Config()).values() if is_dataclass(v))]
    names = [f.name for part in dict.fromkeys(parts) for f in fields(part) if f.metadata]
    assert len(names) == len(set(names))
    assert not set(names) & {f.name for kind in METHODS.values() for f in fields(kind)}
    assert parse("--lr", "0.5", "--no-nesterov", "--milestones", "2,4", "--t-max", "none", "--ball", "global") == {
        "learning_rate": 0.5,
        "nesterov": False,
        "milestones": (2, 4),
        "t_max": None,
        "ball": "global",
    }
    assert parse() == {}


def test_the_model_flag_names_a_model_that_other_flags_change():
    given = parse("--model", "resnext11", "--stem", "16")
    assert Config().override(given).model == replace(MODELS["resnext11"], stem=16)


def help_of(run, *arguments):
    """Return the help of a command in one line."""
    status, out, _ = run(*arguments, "--help")
    assert status == 0
    return re.sub(r"(\w-) ", r"\1", " ".join(out.split()))  # the help breaks lines after a hyphen


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["train"], ["0: none (sgd: 16)", "warm-up from zero (sgd: 1)", "(--method sam: 0.05; --method asam: 2)"]),
        (["train", "--recipe", "amp"], ["(amp: 0.3)", "(amp: 0.5)", "training method (amp: amp)"]),
        (
            ["train", "--recipe=quick-amp"],
            ["(quick-amp: digits)", f"(quick-amp: {recipe('quick-amp').method.epsilon:g})"],
        ),
        (["train", "--dataset", "digits"], ["0: none (quick: 0)"]),
        (["train", "--method", "amp"], ["(sgd+amp: 0.5)"]),
        (["study"], ["0: none (sgd, amp: 16)", "(amp: 0.3)", "(sam: 0.05; asam: 2)"]),
        (["study", "--recipes", "best", "--recipes", "amp"], ["0: none (best: 8; amp: 16)", "(best: 0.1; amp: 0.3)"]),
        (["summary"], ["(default: 32)"]),
    ],
    ids=" ".join,
)
def test_the_help_shows_the_values_of_the_recipe_that_would_run(run, arguments, texts):
    text = help_of(run, *arguments)
    for expected in texts:
        assert expected in text


@pytest.mark.parametrize("flag", ["--config", "--resume"])
def test_the_help_shows_no_values_where_a_run_has_them(run, flag):
    text = help_of(run, "train", flag, "runs/x")
    assert text.count("(default: as in training)") == 7
    assert "sgd: " not in text


def test_every_flag_that_takes_several_values_adds_them_up():
    commands = cli.make_parser()._subparsers._group_actions[0].choices
    several = [
        action
        for command in commands.values()
        for action in command._actions
        if action.option_strings and action.nargs in ("+", "*") and "--parts" not in action.option_strings
    ]
    assert len(several) >= 8
    for action in several:
        assert isinstance(action, argparse._ExtendAction), action.option_strings
    options = cli.make_parser().parse_args(["study", "--recipes", "sgd", "--recipes", "amp", "sam"])
    assert options.recipes == ["sgd", "amp", "sam"]


def test_every_path_expands_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    commands = cli.make_parser()._subparsers._group_actions[0].choices
    types = [action.type for command in commands.values() for action in command._actions]
    assert Path not in types
    assert types.count(path) >= 15
    options = cli.make_parser().parse_args(["train", "--output=~/x y"])
    assert options.output == Path("/home/somebody/x y")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_typed_as_flags(name):
    config = recipe(name)
    values = {"method": config.method.name}
    for part in (config, config.data, config.model, config.start, config.optimizer, config.schedule, config.method):
        for item in fields(part):
            if item.metadata:
                values[item.metadata["info"].flag or item.name] = getattr(part, item.name)
    flags = []
    for key, value in values.items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()]
    assert replace(Config().override(parse(*flags)), recipe=name) == config
