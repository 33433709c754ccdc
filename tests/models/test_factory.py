"""From names and settings to networks, and the errors on the way."""

from __future__ import annotations

import json
import re

import pytest
import torch
from networks import GROUPED, PLAIN, PYRAMID, VARIANTS
from tiny import tiny

from flatnext import train
from flatnext.config import MODELS, Config, Model
from flatnext.errors import InputError
from flatnext.models import build, create_model, list_models, parameter_count


def test_models_by_name():
    assert {"resnext29", "resnet30"} <= set(list_models())
    model = create_model("resnext11", classes=3)
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 3)
    assert parameter_count(create_model("resnext29", classes=1000)) > 5_000_000
    with pytest.raises(InputError, match="unknown model 'resnet18'"):
        create_model("resnet18")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnext11", {"num_classes": 10}, "create_model has no argument 'num_classes': give classes"),
        ("resnext11", {"in_chans": 1}, "give channels"),
        ("resnext11", {"pretrained": True}, "'pretrained': flatnext.from_pretrained returns a model with trained"),
        ("resnext11", {"clases": 3}, "did you mean classes?"),
        ("resnext29-cifar10", {}, "resnext29-cifar10 is the name of trained weights: flatnext.from_pretrained"),
    ],
)
def test_what_other_libraries_have_is_answered_with_what_there_is(name, arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        create_model(name, **arguments)


@pytest.mark.parametrize("name", [*MODELS, *VARIANTS])
def test_a_model_survives_json(name):
    config = Config(model=MODELS.get(name) or VARIANTS[name])
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_a_config_from_before_there_were_blocks_is_the_baselines_model():
    content = Config().to_json()
    for name in ("block", "widths", "pyramid_alpha", "stem_kernel"):
        del content["model"][name]
    assert Config.from_json(content).model == Model()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stem_kernel": 2}, "stem_kernel is 2: choose one of 1, 3"),
        ({"block": "dense"}, "block is 'dense': choose one of resnext, basic, preact, sk"),
        ({"block": "basic"}, "cardinality is 32: block basic has no groups: set it to 1"),
        ({"block": "preact", "cardinality": 2}, "cardinality is 2: block preact has no groups"),
        ({"widths": "pyramid"}, "widths=pyramid needs pyramid_alpha"),
        ({"pyramid_alpha": 4}, "pyramid_alpha belongs to widths=pyramid, not to constant-by-stage"),
        ({"widths": "pyramid", "pyramid_alpha": 0}, "pyramid_alpha is 0: give at least 1"),
        ({"widths": "pyramid", "pyramid_alpha": 2000}, "more than parameter_budget 5,000,000: lower .*pyramid_alpha"),
        ({"widths": "pyramid", "pyramid_alpha": 10**15}, "too large to count its parameters: lower .*pyramid_alpha"),
        ({**GROUPED, **PYRAMID, "stem": 21}, "cannot pad 21 channels to 20: lower stem to 20"),
        ({**PLAIN, "block": "basic", "bottleneck_width": 400}, "more than parameter_budget 5,000,000: lower blocks"),
    ],
)
def test_mistakes_are_named_in_one_line(settings, message):
    with pytest.raises(InputError, match=message) as caught:
        build(Model(**settings), 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["stem3", "basic", "preact", "sk", "pyramid"])
def test_a_run_trains_and_scores(name, tmp_path):
    shape = {key: getattr(VARIANTS[name], key) for key in Config().to_json()["model"]}
    result = train(tiny(**{**shape, "epochs": 1}), tmp_path / "run")
    assert 0 <= result.last.test.accuracy <= 1


# Parameter budget


def test_the_baselines_model_is_within_the_budget():
    assert parameter_count(build(Model(), classes=10)) == 4_761_770


def test_a_model_at_the_budget_is_built_and_one_above_is_refused():
    build(Model(parameter_budget=4_761_770), classes=10)
    with pytest.raises(InputError, match=r"4,761,770 parameters, 1 more than parameter_budget 4,761,769: lower blocks"):
        build(Model(parameter_budget=4_761_769), classes=10)


@pytest.mark.parametrize("width", [40_000, 10**10, 10**15])
def test_a_model_that_no_memory_could_hold_is_refused(width):
    with pytest.raises(InputError, match="lower blocks, cardinality, bottleneck_width"):
        build(Model(bottleneck_width=width), classes=10)


def test_a_model_without_classes_is_refused():
    with pytest.raises(InputError, match="classes is 0: give at least 1"):
        build(Model(), classes=0)
