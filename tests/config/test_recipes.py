"""The recipes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from flatnext.config import METHODS, RECIPES, Amp, Config, Model, Schedule, Sgd, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name):
    config = recipe(name)
    assert config.recipe == name
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_report_recipes_are_what_the_baseline_papers_code_ran():
    sgd, amp, text = recipe("report-sgd"), recipe("report-amp"), recipe("report-text-sgd")
    for config in (sgd, amp, text):
        assert (config.epochs, config.batch_size, config.data.validation) == (100, 64, 0)
        assert config.model == Model()
    assert (sgd.optimizer.learning_rate, sgd.optimizer.momentum, sgd.optimizer.weight_decay) == (0.001, 0.9, 5e-4)
    assert (text.optimizer.learning_rate, text.optimizer.momentum, text.optimizer.weight_decay) == (0.001, 0.0, 1e-4)
    assert (amp.optimizer.learning_rate, amp.optimizer.momentum, amp.optimizer.weight_decay) == (0.1, 0.9, 0.0)
    assert amp.method == Amp(epsilon=0.5, inner_lr=1.0, inner_iter=1, ball="tensor")
    assert sgd.schedule == amp.schedule == Schedule(t_max=200, per_epoch=True)
    assert sgd.optimizer.decay_all


@pytest.mark.parametrize("pair", [("sgd", "amp"), ("quick", "quick-amp")])
def test_a_pair_differs_in_the_method_alone(pair):
    plain, perturbed = map(recipe, pair)
    assert replace(perturbed, recipe=plain.recipe, method=Sgd()) == plain


@pytest.mark.parametrize("name", [name for name in METHODS if name != "sgd"])
def test_the_recipe_of_a_method_differs_from_sgd_in_the_method_alone(name):
    assert recipe(name).method.name == name
    assert replace(recipe(name), recipe="sgd", method=Sgd()) == recipe("sgd")


def test_amp_and_its_variants_have_the_radius_of_its_authors_for_cutout():
    for name in ("amp", "momentum-amp", "rmp"):
        assert (recipe(name).method.epsilon, recipe(name).method.inner_lr) == (0.3, 0.5)
    assert recipe("sam").method.rho == 0.05
    assert recipe("asam").method.rho == 2.0
    assert recipe("adversarial").method.epsilon == 2 / 255
