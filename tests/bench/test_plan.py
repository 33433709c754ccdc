"""What is measured: configs, groups of rounds, and plans that are refused."""

from __future__ import annotations

import pytest
from networks import VARIANTS

from flatnext.bench.plan import BenchPlan, group_rounds, training_configs
from flatnext.config import Amp, Model
from flatnext.errors import InputError

TINY = Model(blocks=(1, 1), cardinality=2, stem=8)


@pytest.mark.parametrize(("interval", "steps", "group"), [(1, 3, 1), (4, 1, 4), (4, 20, 1), (4, 6, 2), (3, 2, 3)])
def test_a_group_of_rounds_has_whole_periods(interval, steps, group):
    assert group_rounds(interval, steps, 8) == group
    assert group * steps % interval == 0
    assert all(fewer * steps % interval for fewer in range(1, group))


def test_configs_differ_in_the_method_and_recipes_keep_theirs():
    plan = BenchPlan(model=TINY, batch_size=4, precision="fp32", methods=("amp-norm",), recipes=("paper-amp",))
    configs = training_configs(plan)
    assert list(configs) == ["sgd", "amp-norm", "recipe paper-amp"]
    assert configs["amp-norm"].method == Amp(only="norm")
    assert configs["recipe paper-amp"].optimizer.clip_norm == 50
    assert {c.batch_size for c in configs.values()} == {4}
    assert {c.model.blocks for c in configs.values()} == {(1, 1)}


def test_recipes_cut_out_no_more_than_small_images_have():
    config = training_configs(BenchPlan(recipes=("sgd",), image_size=8))["recipe sgd"]
    assert (config.data.cutout, config.data.crop_padding) == (8, 4)


def test_on_a_gpu_eager_steps_are_measured_too():
    configs = training_configs(BenchPlan(methods=("amp",)), "cuda")
    assert {name: config.cuda_graph for name, config in configs.items() if not config.cuda_graph} == {
        "sgd, eager": False,
        "amp, eager": False,
    }
    assert configs["amp, eager"].method == configs["amp"].method


@pytest.mark.parametrize(
    ("part", "name", "message"),
    [
        ("inference", "sk", "part inference does not know block sk"),
        ("convolution", "pyramid-basic", "block basic with widths .* has no grouped and no 1x1 convolution"),
    ],
)
def test_bench_refuses_parts_that_a_model_has_nothing_for(part, name, message):
    with pytest.raises(InputError, match=message):
        BenchPlan(parts=(part,), model=VARIANTS[name])
    assert BenchPlan(parts=("training", "memory"), model=VARIANTS[name]).model == VARIANTS[name]
