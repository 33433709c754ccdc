"""The optimizer and its learning rates, beside those of torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flatnext.config import Optimizer, Schedule, recipe
from flatnext.errors import InputError
from flatnext.training import learning_rate, make_optimizer


def test_learning_rates_equal_torch_schedulers():
    steps_per_epoch, epochs = 5, 12
    parameter = nn.Parameter(torch.zeros(1))

    def by_torch(make, every):
        optimizer = torch.optim.SGD([parameter], lr=0.1)
        scheduler = make(optimizer)
        rates = []
        for step in range(steps_per_epoch * epochs):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if (step + 1) % every == 0:
                scheduler.step()
        return rates

    cosine, steps = torch.optim.lr_scheduler.CosineAnnealingLR, torch.optim.lr_scheduler.MultiStepLR
    linear = torch.optim.lr_scheduler.LinearLR
    cases = [
        (Schedule(t_max=20, per_epoch=True), by_torch(lambda o: cosine(o, T_max=20), steps_per_epoch)),
        (Schedule(), by_torch(lambda o: cosine(o, T_max=60), 1)),
        (
            Schedule(schedule="steps", milestones=(4, 8), gamma=0.1),
            by_torch(lambda o: steps(o, [4, 8], 0.1), steps_per_epoch),
        ),
        (Schedule(schedule="constant"), [0.1] * 60),
        (Schedule(schedule="linear"), by_torch(lambda o: linear(o, 1.0, 0.0, 60), 1)),
        (Schedule(schedule="linear", per_epoch=True), by_torch(lambda o: linear(o, 1.0, 0.0, 12), steps_per_epoch)),
    ]
    for schedule, expected in cases:
        rates = [learning_rate(0.1, schedule, step, steps_per_epoch, epochs) for step in range(60)]
        assert rates == pytest.approx(expected, rel=1e-9)


def test_warm_up_is_linear_and_reaches_the_peak():
    schedule = Schedule(warmup_epochs=2.0)
    rates = [learning_rate(0.4, schedule, step, 5, 10) for step in range(50)]
    assert rates[:10] == pytest.approx([0.04 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(0.4)
    assert rates[30] == pytest.approx(0.2)
    assert 0 < rates[-1] < 0.001


def test_a_linear_schedule_with_a_warm_up_is_a_triangle():
    rates = [learning_rate(0.4, Schedule(schedule="linear", warmup_epochs=2.0), step, 5, 10) for step in range(50)]
    assert rates[:10] == pytest.approx([0.04 * (i + 1) for i in range(10)])
    assert rates[10:] == pytest.approx([0.01 * (40 - i) for i in range(40)])


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_warm_up_that_ends_within_an_epoch_is_followed_by_the_peak_and_never_exceeded(schedule):
    """By epoch a rate is that of the epoch's first step, and after the warm-up that of the first step after it."""
    by_step = Schedule(schedule=schedule, warmup_epochs=1.5)
    by_epoch = Schedule(schedule=schedule, warmup_epochs=1.5, per_epoch=True)
    expected = [learning_rate(0.4, by_step, step, 10, 4) for step in [*range(15), *[15] * 5, *[20] * 10, *[30] * 10]]
    rates = [learning_rate(0.4, by_epoch, step, 10, 4) for step in range(40)]
    assert rates == pytest.approx(expected)
    assert rates[14:20] == pytest.approx([0.4] * 6)
    assert sorted(rates[14:], reverse=True) == rates[14:]


def test_the_reports_rate_never_gets_below_half():
    config = recipe("report-amp")
    last = learning_rate(config.optimizer.learning_rate, config.schedule, 99 * 782, 782, config.epochs)
    assert 0.05 < last < 0.0508


def test_batch_norm_and_biases_are_not_decayed_unless_asked():
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    groups = make_optimizer(model, Optimizer()).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(2, 5e-4), (3, 0.0)]
    groups = make_optimizer(model, Optimizer(decay_all=True)).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(5, 5e-4)]


def test_adamw_is_torchs_and_has_defaults_of_its_own():
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    settings = recipe("sgd").override({"optimizer": "adamw"}).optimizer
    assert settings == Optimizer(optimizer="adamw")
    optimizer = make_optimizer(model, settings)
    assert type(optimizer) is torch.optim.AdamW
    theirs = torch.optim.AdamW(model.parameters()).param_groups[0]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [theirs["weight_decay"], 0.0]
    assert all(group["betas"] == theirs["betas"] and group["lr"] == theirs["lr"] for group in optimizer.param_groups)
    given = recipe("sgd").override({"optimizer": "adamw", "learning_rate": 0.01, "momentum": 0.8}).optimizer
    assert (given.learning_rate, given.momentum, given.weight_decay) == (0.01, 0.8, 0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adamw", "nesterov": True}, "nesterov belongs to optimizer=sgd"),
        ({"beta2": 0.99}, "beta2 belongs to optimizer=adamw, not to sgd"),
        ({"optimizer": "adamw", "momentum": 0.0, "method": "momentum-amp"}, "momentum-amp needs momentum above 0"),
    ],
)
def test_settings_of_the_other_optimizer_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        recipe("sgd").override(settings)
