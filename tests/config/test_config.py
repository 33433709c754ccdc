"""The config: what it refuses, JSON both ways, and overriding settings by name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flatnext.config import MODELS, RENAMED, Amp, Config, Data, Model, Optimizer, Schedule, recipe
from flatnext.errors import InputError


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: Amp(epsilon=-0.1), "epsilon"),
        (lambda: Amp(epsilon=float("nan")), "epsilon"),
        (lambda: Amp(inner_iter=-1), "inner_iter"),
        (lambda: Optimizer(learning_rate=0.0), "learning_rate"),
        (lambda: Optimizer(momentum=1.0), "momentum"),
        (lambda: Optimizer(momentum=0.0), "nesterov"),
        (lambda: Optimizer(clip_norm=0.0), "clip_norm"),
        (lambda: Schedule(schedule="steps"), "milestones"),
        (lambda: Schedule(schedule="steps", milestones=(5, 3), gamma=0.1), "milestones"),
        (lambda: Schedule(gamma=0.1), "gamma"),
        (lambda: Schedule(schedule="constant", t_max=5), "t_max"),
        (lambda: Data(image_size=30), "image_size"),
        (lambda: Data(image_size=100_000_000), "image_size"),
        (lambda: Data(validation=-1), "validation"),
        (lambda: Model(blocks=()), "blocks"),
        (lambda: Model(cardinality=0), "cardinality"),
        (lambda: Config(epochs=0), "epochs"),
        (lambda: Config(label_smoothing=1.0), "label_smoothing"),
        (lambda: recipe("best-ever"), "unknown recipe"),
        (lambda: Config(seed=2**64), "seed"),
        (lambda: Config(recipe="../../evil"), "recipe"),
        (lambda: Config(schedule=Schedule(warmup_epochs=200.0)), "warmup_epochs"),
        (lambda: Config(schedule=Schedule(warmup_epochs=2.0, t_max=1)), "warmup_epochs"),
        (lambda: Config().override({"precision": "fp16"}), "precision"),
        (lambda: Config().override({"epochs": 2.5}), "epochs"),
        (lambda: Config().override({"epochs": "5"}), "epochs"),
        (lambda: Config().override({"nesterov": "no"}), "nesterov"),
        (lambda: Amp(ball="globe"), "ball"),
        (lambda: Data(dataset="mnist"), "dataset"),
    ],
)
def test_bad_settings_are_named_in_one_line(make, setting):
    with pytest.raises(InputError, match=setting) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_config_from_before_flips_were_a_choice_is_read():
    content = Config().to_json()
    for before, flip in ((True, "random"), (False, "none")):
        content["data"]["flip"] = before
        assert Config.from_json(content).data == Data(flip=flip)
    assert content["data"]["flip"] is False  # what was read is left as it was


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": 3}, "config has no setting 'epoch' at its top: did you mean epochs?"),
        ({"lr": 3}, "config has no setting 'lr' at its top: it is optimizer.learning_rate, in the section optimizer"),
        ({"data": {"lr": 3}}, "config.data has no setting 'lr': it is optimizer.learning_rate, in the section opt"),
        ({"data": {"flips": True}}, "config.data has no setting 'flips'"),
        ({"epochs": "3"}, "config.epochs is '3'"),
        ({"epochs": True}, "config.epochs is True"),
        ({"method": {"name": "amp", "radius": 1}}, "config.method has no setting 'radius'"),
        ({"method": {"name": "sgd", "epsilon": 1}}, "config.method has no setting 'epsilon'"),
        ({"method": {"name": "sgdd"}}, "config.method: unknown name 'sgdd'"),
        ({"method": 3}, "config.method is 3"),
        ({"precision": "fp8"}, "config.precision is 'fp8'"),
        ({"model": {"blocks": 3}}, "config.model.blocks is 3"),
    ],
)
def test_json_that_is_not_a_config_is_refused(change, message):
    with pytest.raises(InputError) as caught:
        Config.from_json({**Config().to_json(), **change})
    assert str(caught.value).startswith(message)


def test_overrides_reach_their_part_and_leave_nothing_unused():
    config = recipe("sgd").override({"learning_rate": 0.2, "epochs": 3, "stem": 64, "method": "amp", "epsilon": 0.1})
    assert (config.optimizer.learning_rate, config.epochs, config.model.stem) == (0.2, 3, 64)
    assert config.method == Amp(epsilon=0.1)
    with pytest.raises(InputError, match="method sgd has no setting 'epsilon': it belongs to method amp"):
        recipe("sgd").override({"epsilon": 0.1})
    assert recipe("amp").override({"epsilon": 0.1}).method == Amp(epsilon=0.1, inner_lr=0.5)
    assert recipe("amp").override({"method": "amp"}) == recipe("amp")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("epoch", "there is no setting 'epoch': did you mean epochs?"),
        ("lr", "there is no setting 'lr': it is called learning_rate"),
        ("weight-decay", "there is no setting 'weight-decay': it is called weight_decay"),
        ("batch", "there is no setting 'batch': it is called batch_size"),
        ("accumulate", "there is no setting 'accumulate': it is called grad_accum_steps"),
        ("rho", "method sgd has no setting 'rho': it belongs to method sam and asam"),
        ("foo", "there is no setting 'foo': choose one of dataset, image_size"),
    ],
)
def test_an_unknown_name_is_answered_with_the_one_that_is_meant(name, message):
    with pytest.raises(InputError, match=message):
        Config().override({name: 3})


def test_a_named_model_can_be_changed_in_parts():
    config = recipe("quick").override({"model": "resnext20", "stem": 16})
    assert config.model == replace(
        MODELS["resnext20"], stem=16, parameter_budget=recipe("quick").model.parameter_budget
    )
    with pytest.raises(InputError, match="unknown model 'resnext12': did you mean resnext29 or resnext20 or resnext11"):
        Config().override({"model": "resnext12"})


def test_a_method_and_what_it_needs_can_be_changed_together():
    with pytest.raises(InputError, match="momentum-amp needs momentum above 0"):
        recipe("report-text-sgd").override({"method": "momentum-amp"})
    config = recipe("report-text-sgd").override({"method": "momentum-amp", "momentum": 0.9, "epsilon": 0.1})
    assert config.recipe == "report-text-sgd+momentum-amp"
    assert (config.method.epsilon, config.optimizer.momentum) == (0.1, 0.9)
    assert config.override({"method": "sgd", "momentum": 0.0}).method.name == "sgd"


def test_changing_the_schedule_drops_the_settings_of_the_old_one():
    changed = recipe("report-sgd").override({"schedule": "constant"})
    assert changed.schedule == Schedule(schedule="constant", per_epoch=True)


def test_changing_the_widths_drops_the_setting_of_the_old_ones():
    pyramid = Config(model=Model(widths="pyramid", pyramid_alpha=48))
    assert pyramid.override({"widths": "constant-by-stage"}).model == Model()


def test_a_config_with_the_names_of_version_0_1_0_is_read():
    names = {new: old for old, new in RENAMED.items()}
    config = Config(method=Amp(perturb_every=3, m_sharpness=True), grad_accum_steps=2, cuda_graph=False)
    content = {names.get(key, key): value for key, value in config.to_json().items()}
    content["method"] = {names.get(key, key): value for key, value in content["method"].items()}
    assert content["accumulate"] == 2
    assert content["method"]["interval"] == 3
    assert Config.from_json(content) == config
