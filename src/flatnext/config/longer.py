"""Making a run longer: what its rate does in the epochs that are added, where that can be said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from flatnext.config.config import Config
from flatnext.config.optimizer import Schedule
from flatnext.config.setting import require
from flatnext.words import counted

NEW_SCHEDULE = (*(item.name for item in fields(Schedule) if "info" in item.metadata), "learning_rate")
"""The settings that a run may be given with more epochs."""


def depends_on_length(config: Config) -> bool:
    """Return whether the learning rate of an epoch depends on the number of epochs, or a method's radius does."""
    schedule = config.schedule
    falls = schedule.schedule == "linear" or (schedule.schedule == "cosine" and schedule.t_max is None)
    return falls or getattr(config.method, "radius_schedule", "constant") != "constant"


def longer(config: Config, settings: Mapping[str, Any], done: int) -> Config:
    """Return the config of a run after `done` epochs, changed to more epochs, or to a new schedule for those left.

    A rate that does not depend on the number of epochs goes on as it is: constant, in steps, or along a cosine of a
    given `t_max`. One that does needs a new `schedule`, which then goes from here to the new end, from the rate at its
    peak; `warmup_epochs`, `t_max` and `milestones` are counted from here. Settings that the run has already change
    nothing, so that the same can be asked for again. Raises `InputError` where it cannot be said what to do.
    """
    flat = config.flat()
    other = next((name for name in settings if name not in ("epochs", *NEW_SCHEDULE)), None)
    require(
        other is None and "epochs" in settings,
        "a run that is resumed has its settings: leave them out, but for --epochs, and with it --schedule, what "
        "belongs to it, and --lr",
    )
    if all(flat[name] == value for name, value in settings.items()):
        return config
    epochs, rest = settings["epochs"], {name: value for name, value in settings.items() if name != "epochs"}
    require(
        epochs >= config.epochs,
        f"epochs is {epochs}: the run has {config.epochs}, and cannot be made shorter: give more, or train a new run",
    )
    require(epochs > done, f"epochs is {epochs}: the run has finished them: give more")
    require(
        getattr(config.method, "radius_schedule", "constant") == "constant",
        "a run whose radius changes over all of its epochs cannot be made longer: train a new run",
    )
    if rest:
        require("schedule" in rest, f"{next(iter(rest))} is that of a new schedule: give --schedule as well")
        begun = replace(Schedule(schedule="constant"), schedule_begins=done)
        return replace(config, epochs=epochs, schedule=begun).override(rest)
    words = {"linear": "falls linearly to zero", "cosine": "falls to zero along a cosine"}
    require(
        not depends_on_length(config),
        f"its learning rate {words.get(config.schedule.schedule)} over its {counted(config.epochs, 'epoch')}, so that "
        "with more of them it would have been another: give the added epochs a schedule of their own, such as "
        "--schedule cosine --lr 0.02, or --schedule constant, or train a new run with all the epochs",
    )
    return replace(config, epochs=epochs)


def as_new_run(config: Config) -> Config:
    """Return the config of a run for a new one: of one that was made longer, with its last schedule over all epochs."""
    return replace(config, schedule=replace(config.schedule, schedule_begins=0))


def described_change(before: Config, after: Config, rate_factor: float = 1.0) -> str:
    """Return in words what a longer run does, whose rate has `rate_factor` since it went back to a checkpoint."""
    schedule, rate = after.schedule, after.optimizer.learning_rate
    text = f"goes on beyond its {counted(before.epochs, 'epoch')} to {after.epochs}"
    if schedule == before.schedule:
        return f"{text}; the learning rate goes on as planned ({schedule.schedule})"
    began = schedule.schedule_begins + 1
    lowered = "" if rate_factor == 1 else f" ({rate_factor:g} times {rate:g}, since the loss was not finite)"
    rates = f"the learning rate is {schedule.schedule}, at most {rate * rate_factor:g}{lowered}"
    return f"{text}; from epoch {began} on {rates}"
