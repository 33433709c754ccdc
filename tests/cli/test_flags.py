"""The flags of the settings."""

from __future__ import annotations

import argparse
from dataclasses import fields, is_dataclass, replace

import pytest

from flatnext.cli.flags import add_setting_flags, setting_overrides
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


def test_the_help_names_the_defaults_of_each_method():
    parser = argparse.ArgumentParser()
    add_setting_flags(parser, "method")
    text = " ".join(parser.format_help().split())
    assert "(default: sam 0.05, asam 2)" in text
    assert "--m-sharpness, --no-m-sharpness" in text


def test_flags_that_replace_settings_of_a_run_name_no_defaults():
    parser = argparse.ArgumentParser()
    add_setting_flags(parser, "data", "model", of_run=True)
    text = " ".join(parser.format_help().split())
    assert text.count("(default: as in training)") == 2
    assert "(default cifar10)" not in text


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_typed_as_flags(name):
    config = recipe(name)
    values = {"method": config.method.name}
    for part in (config, config.data, config.model, config.optimizer, config.schedule, config.method):
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
