"""A study: its groups of runs, what was measured on them, and each recipe against the baseline."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from flatnext.runs.records import RunRecord, Session, UnfinishedRun
from flatnext.study.groups import Group, settings
from flatnext.study.measurements import Measurement, measurements
from flatnext.study.quantities import Quantity, quantities
from flatnext.study.statistics import Comparison, adjust, estimate, points, sentence


@dataclass(frozen=True)
class Contrast:
    """A group against the baseline. `comparison` (test accuracy, last epoch) is None without a seed in common."""

    group: Group
    baseline: Group
    comparison: Comparison | None

    @property
    def recipes(self) -> tuple[str, str]:
        """The labels of the two, the baseline last."""
        return self.group.label, self.baseline.label

    @property
    def label(self) -> str:
        """Return `amp − sgd`."""
        return " − ".join(self.recipes)

    @property
    def sentence(self) -> str:
        """What the comparison shows, in words."""
        if self.comparison is None:
            names = " and ".join(self.recipes)
            return f"{names} have no seed in common: run both with the same seeds to compare them."
        return sentence(self.comparison, *self.recipes)


@dataclass(frozen=True)
class Study:
    """Everything that a report needs. `groups` may be empty: then no run has finished."""

    groups: tuple[Group, ...]
    left_out: tuple[UnfinishedRun, ...]

    @property
    def runs(self) -> tuple[RunRecord, ...]:
        """The runs of all groups."""
        return tuple(run for group in self.groups for run in group.runs)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the groups."""
        return tuple(group.label for group in self.groups)

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The sessions of all runs, by their start."""
        return tuple(sorted((s for run in self.runs for s in run.environment.sessions), key=lambda s: s.started))

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands that made the runs, each once, by their first start."""
        return tuple(dict.fromkeys(session.command for session in self.sessions if session.command))

    @cached_property
    def measurements(self) -> tuple[Measurement, ...]:
        """The table of measurements."""
        return measurements(self.groups)

    @cached_property
    def quantities(self) -> tuple[Quantity, ...]:
        """The same table by measure, split and place."""
        return quantities(self.measurements, self.labels)

    def select(self, *measures: str, split: str = "*", at: bool | None = None) -> list[Quantity]:
        """Return the quantities of these measures in their order; an id may be a pattern (`attack.*`).

        With `at` True only those at a radius, severity or budget, with False only those without.
        """
        return [
            quantity
            for quantity in self.quantities
            if any(fnmatchcase(quantity.measure.id, pattern) for pattern in measures)
            and fnmatchcase(quantity.split, split)
            and at in (None, quantity.at is not None)
        ]

    @cached_property
    def accuracy(self) -> Quantity:
        """The test accuracy of the last epoch."""
        return self.select("accuracy", split="test")[0]

    @cached_property
    def baseline(self) -> Group | None:
        """The first group that trains with plain SGD, else the first."""
        plain = [group for group in self.groups if group.config.method.name == "sgd"]
        return next(iter((*plain, *self.groups)), None)

    @cached_property
    def contrasts(self) -> tuple[Contrast, ...]:
        """Each other group against the baseline, with Holm's correction for their number."""
        if (baseline := self.baseline) is None:
            return ()
        others = [group for group in self.groups if group is not baseline]
        pairs = {group.label: self.accuracy.compare(group.label, baseline.label) for group in others}
        corrected = adjust([comparison for comparison in pairs.values() if comparison is not None])
        by_label = dict(zip((label for label, pair in pairs.items() if pair is not None), corrected, strict=True))
        return tuple(Contrast(group, baseline, by_label.get(group.label)) for group in others)

    @cached_property
    def verdict(self) -> tuple[str, ...]:
        """Which recipe is better and by how much, in plain sentences."""
        if not self.groups:
            return ("No run has finished: there is nothing to compare yet.",)
        if self.contrasts:
            return tuple(contrast.sentence for contrast in self.contrasts)
        (label,) = self.labels
        accuracy = estimate(self.accuracy.values(label).values())
        seeds = f"{accuracy.n} seed{'s' if accuracy.n > 1 else ''}"
        return (
            f"{label} reaches {points(accuracy.mean)} % test accuracy ({seeds}). No other recipe has a finished run: "
            "there is nothing to compare it with.",
        )

    @cached_property
    def settings(self) -> dict[str, tuple[Any, ...]]:
        """Each setting but recipe and seed, with its value in each group; None where a group has no such setting."""
        by_group = [settings(group.config) for group in self.groups]
        names = {name: None for values in by_group for name in values}
        return {name: tuple(values.get(name) for values in by_group) for name in names}
