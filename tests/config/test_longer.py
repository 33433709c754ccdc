"""Making a run longer: where the rate goes on by itself, and where it needs a new schedule."""

from __future__ import annotations

import pytest

from flatnext.config import Config, Schedule, as_new_run, depends_on_length, longer, recipe
from flatnext.errors import InputError
from flatnext.training import learning_rate

PLAIN = recipe("sgd")
CONSTANT = PLAIN.override({"schedule": "constant"})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "constant"}, False),
        ({"schedule": "steps", "milestones": (2,), "gamma": 0.1}, False),
        ({"t_max": 200}, False),
        ({}, True),
        ({"schedule": "linear"}, True),
        ({"schedule": "constant", "method": "amp", "radius_schedule": "decay"}, True),
    ],
)
def test_which_rates_depend_on_the_number_of_epochs(settings, expected):
    config = PLAIN.override({"warmup_epochs": 1.0, **settings})
    assert depends_on_length(config) is expected
    rates = [
        [learning_rate(0.1, config.schedule, step, 5, epochs) for step in range(50)] for epochs in (10, 20)
    ]  # the first ten epochs of ten, and of twenty
    if config.method.name == "sgd":
        assert (rates[0] != rates[1]) is expected


def test_a_rate_that_does_not_depend_on_the_length_goes_on():
    assert longer(CONSTANT, {"epochs": 150}, 100) == CONSTANT.override({"epochs": 150})
    report = recipe("report-sgd")
    assert longer(report, {"epochs": 200}, 100) == report.override({"epochs": 200})


def test_the_same_again_changes_nothing():
    again = longer(PLAIN, {"epochs": 120, "schedule": "cosine", "learning_rate": 0.02}, 100)
    assert again.schedule == Schedule(schedule="cosine", schedule_begins=100)
    assert longer(again, {"epochs": 120, "schedule": "cosine", "learning_rate": 0.02}, 110) == again
    assert longer(again, {"epochs": 120}, 110) == again
    assert Config.from_json(again.to_json()) == again


def test_a_new_run_has_the_schedule_from_its_beginning():
    again = longer(PLAIN, {"epochs": 120, "schedule": "cosine", "learning_rate": 0.02}, 100)
    assert as_new_run(again) == PLAIN.override({"epochs": 120, "learning_rate": 0.02, "warmup_epochs": 0.0})


def test_a_new_schedule_is_counted_from_where_it_begins():
    config = longer(
        PLAIN.override({"epochs": 10}),
        {"epochs": 30, "schedule": "cosine", "learning_rate": 0.02, "warmup_epochs": 2.0},
        10,
    )
    short = Schedule(warmup_epochs=2.0)
    assert [learning_rate(0.02, config.schedule, 50 + step, 5, 30) for step in range(100)] == [
        learning_rate(0.02, short, step, 5, 20) for step in range(100)
    ]
    steps = longer(PLAIN, {"epochs": 130, "schedule": "steps", "milestones": (10,), "gamma": 0.5}, 100)
    assert [learning_rate(0.1, steps.schedule, epoch * 5, 5, 130) for epoch in (100, 109, 110)] == [0.1, 0.1, 0.05]


@pytest.mark.parametrize(
    ("config", "settings", "done", "message"),
    [
        (PLAIN, {"epochs": 150}, 100, r"falls to zero along a cosine over its 100 epochs.*--schedule cosine --lr"),
        (PLAIN.override({"schedule": "linear"}), {"epochs": 150}, 10, "falls linearly to zero"),
        (PLAIN, {"epochs": 90}, 10, "epochs is 90: the run has 100, and cannot be made shorter"),
        (PLAIN, {"epochs": 100, "schedule": "constant"}, 100, "has finished them"),
        (PLAIN, {"learning_rate": 0.2}, 10, "leave them out, but for --epochs"),
        (CONSTANT, {"epochs": 120, "batch_size": 3}, 10, "leave them out"),
        (CONSTANT, {"epochs": 120, "learning_rate": 0.2}, 10, "give --schedule as well"),
        (CONSTANT, {"epochs": 120, "schedule": "cosine", "warmup_epochs": 21.0}, 100, "the run has 20 epochs left"),
        (
            CONSTANT.override({"method": "amp", "radius_schedule": "warmup"}),
            {"epochs": 120, "schedule": "constant"},
            10,
            "radius changes over all of its epochs",
        ),
    ],
)
def test_what_cannot_be_said_is_one_line_with_what_to_do(config, settings, done, message):
    with pytest.raises(InputError, match=message):
        longer(config, settings, done)
