"""What a config is called, and configs from files that name a recipe."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from flatnext.config import (
    METHODS,
    RECIPES,
    Amp,
    Config,
    Model,
    Schedule,
    Sgd,
    differences,
    folder_name,
    from_partial,
    labelled,
    recipe,
    recipe_name,
)
from flatnext.errors import InputError


@pytest.mark.parametrize("name", [*RECIPES, "sgd+sam", "quick+amp", "quick-resnext20", "sgd+sam-resnet30"])
def test_a_recipe_differs_from_itself_in_nothing(name):
    config = recipe(name)
    assert (config.recipe, recipe_name(config), differences(config)) == (name, name, {})
    assert differences(replace(config, seed=3)) == {}
    assert from_partial(json.loads(json.dumps(config.to_json()))) == config
    assert Config().override(config.flat()).flat() == config.flat()


@pytest.mark.parametrize(
    ("config", "name", "changed"),
    [
        (recipe("amp").override({"epsilon": 0.1}), "amp", {"epsilon": 0.1}),
        (recipe("amp").override({"method": "sgd"}), "amp+sgd", {}),
        (replace(recipe("amp"), method=Sgd()), "amp+sgd", {}),
        (Config(recipe="amp"), "amp+sgd", {"cutout": 0, "warmup_epochs": 0.0}),
        (recipe("sgd").override({"method": "sam", "rho": 0.1}), "sgd+sam", {"rho": 0.1}),
        (recipe("quick").override({"blocks": (2, 2, 2), "cardinality": 32}), "quick", {"model": "resnext20"}),
        (recipe("quick").override({"stem": 16}), "quick", {"stem": 16}),
        (recipe("sgd").override({"dataset": "folder", "seed": 4, "epochs": 3}), "sgd", {"epochs": 3}),
        (Config(recipe="of-mine"), "of-mine", {}),
    ],
)
def test_what_is_not_the_recipes_is_said(config, name, changed):
    assert (recipe_name(config), differences(config)) == (name, changed)


def test_a_label_names_the_first_of_many_settings():
    assert labelled("amp", {}) == "amp"
    assert labelled("amp", {"blocks": (1, 2), "epsilon": 0.1, "nesterov": False}) == (
        "amp (blocks=1,2, epsilon=0.1, nesterov=no)"
    )
    assert labelled("amp", dict.fromkeys("abcd", 1)) == "amp (a=1, b=1, 2 more settings)"


def test_a_folder_has_a_name_of_its_own_for_each_config():
    close = [folder_name(recipe("amp").override({"epsilon": value}), "pets") for value in (0.12341, 0.12344, 0.25)]
    assert [name.partition("-epsilon-")[2] for name in close] == ["0.12341-seed-0", "0.12344-seed-0", "0.25-seed-0"]
    sgd = recipe("sgd")
    names = [folder_name(c, "pets") for c in (sgd, sgd.override({"epochs": 3}), sgd.override({"stem": 16}))]
    assert names == [
        "pets-resnext29-sgd-seed-0",
        "pets-resnext29-sgd-epochs-3-seed-0",
        "pets-resnext-sgd-stem-16-seed-0",
    ]
    many = {"epochs": 3, "batch_size": 7, "train_images": 100, "validation": 40, "learning_rate": 0.02, "ema": 0.5}
    long = [folder_name(sgd.override({**many, "momentum": momentum}), "pets") for momentum in (0.8, 0.7)]
    assert long[0] != long[1]
    assert max(map(len, long)) < 60


@pytest.mark.parametrize(
    ("content", "config"),
    [
        (
            {"recipe": "amp", "epochs": 1, "data": {"dataset": "folder"}},
            recipe("amp").override({"epochs": 1, "dataset": "folder"}),
        ),
        ({"recipe": "amp", "method": {"epsilon": 0.1}}, recipe("amp").override({"epsilon": 0.1})),
        ({"recipe": "amp", "method": {"name": "amp", "epsilon": 0.1}}, recipe("amp").override({"epsilon": 0.1})),
        ({"recipe": "amp", "method": {"name": "sgd"}}, replace(recipe("amp"), recipe="amp+sgd", method=Sgd())),
        (
            {"recipe": "sgd", "method": {"name": "sam"}},
            replace(recipe("sgd"), recipe="sgd+sam", method=METHODS["sam"]()),
        ),
        ({"recipe": "quick+sam", "seed": 3}, replace(recipe("quick+sam"), seed=3)),
        ({"recipe": "amp", "accumulate": 2}, replace(recipe("amp"), grad_accum_steps=2)),
        (
            {"recipe": "report-sgd", "schedule": {"schedule": "constant"}},
            replace(recipe("report-sgd"), schedule=Schedule(schedule="constant", per_epoch=True)),
        ),
        ({"model": {"stem": 16}}, Config(model=Model(stem=16))),
        ({"recipe": "amp", "model": "resnext11"}, recipe("amp").override({"model": "resnext11"})),
        ({"recipe": "sgd", "method": "sam"}, recipe("sgd+sam")),
        ({**recipe("amp").to_json(), "recipe": "of-mine"}, replace(recipe("amp"), recipe="of-mine")),
    ],
)
def test_a_file_starts_from_the_recipe_that_it_names(content, config):
    assert from_partial(content) == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"recipe": "quikc", "epochs": 1}, "unknown recipe 'quikc': did you mean quick?"),
        ({"recipe": "of-mine", "epochs": 1}, "a config with a name of its own gives every setting"),
        ({"recipe": 3}, "config.recipe is 3"),
        ({"recipe": "amp", "data": {"flips": True}}, "config.data has no setting 'flips': did you mean flip?"),
        ({"recipe": "amp", "data": 3}, "config.data is 3"),
        ({"recipe": "amp", "epsilon": 0.1}, "config has no setting 'epsilon' at its top: it is method.epsilon, in the"),
        ({"recipe": "amp", "epoch": 1}, "config has no setting 'epoch' at its top: did you mean epochs?"),
        ({"recipe": "amp", "epochs": "1"}, "epochs is '1'"),
        ({"recipe": "sgd", "method": {"epsilon": 0.1}}, "config.method has no setting 'epsilon': it belongs to method"),
        ({"recipe": "sgd", "method": {"name": "AMP"}}, "config.method: unknown name 'AMP': did you mean amp?"),
        ({"recipe": "sgd", "method": "AMP"}, "unknown method 'AMP': did you mean amp?"),
        ({"model": "resnext12"}, "unknown model 'resnext12': did you mean resnext29 or resnext20 or resnext11?"),
        ({"model": {"arch": 1}}, "config.model has no setting 'arch'"),
        ({"lr": 0.1}, "at its top: it is optimizer.learning_rate, in the section optimizer"),
        ({"weight-decay": 0.1}, "at its top: it is optimizer.weight_decay, in the section optimizer"),
        ({"optimizer.lr": 0.1}, "at its top: it is optimizer.learning_rate, in the section optimizer"),
        ({"data": {"lr": 0.1}}, "config.data has no setting 'lr': it is optimizer.learning_rate, in the section"),
        ({"optimizer": {"lr": 0.1}}, "config.optimizer has no setting 'lr': it is called learning_rate"),
        ({"optimizer": {"epochs": 3}}, "config.optimizer has no setting 'epochs': it is epochs, at the top of the"),
        ({"lerning_rate": 0.1}, "did you mean optimizer.learning_rate, in the section optimizer?"),
        (
            {"optimizer": {"lerning_rate": 0.1}},
            "config.optimizer has no setting 'lerning_rate': did you mean learn",
        ),
        ({"imgsz": 64}, "at its top: it is data.image_size, in the section data"),
        ({"data": {"batch": 64}}, "config.data has no setting 'batch': it is batch_size, at the top of the config"),
        ({"optimizer": {"learning_rate": "fast"}}, "config.optimizer.learning_rate is 'fast'"),
        ({"foo": 1}, "config has no setting 'foo' at its top: choose one of recipe, data, model, start,"),
        ([], "config is no object"),
    ],
)
def test_a_file_that_is_no_config_is_refused(content, message):
    with pytest.raises(InputError) as caught:
        from_partial(content)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_class_weights_may_be_a_list():
    assert from_partial({"recipe": "cpu", "class_weights": [1, 2.5, 1]}).class_weights == "1,2.5,1"


def test_what_is_nested_without_end_is_refused_at_once():
    nested = ["x"]
    for _ in range(60):  # as YAML's aliases have it
        nested = [nested, nested]
    began = time.perf_counter()
    for content in ({"recipe": nested}, {"recipe": "amp", "data": nested}, {"method": {"name": nested}}):
        with pytest.raises(InputError):
            from_partial(content)
    assert time.perf_counter() - began < 20  # and not for ever


def test_a_method_that_is_changed_is_named_once():
    config = recipe("sgd")
    for method in METHODS:
        config = config.override({"method": method})
    assert config.recipe == f"sgd+{method}"
    assert recipe("quick+amp").method == Amp()
