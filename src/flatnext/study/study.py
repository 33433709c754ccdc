"""A study: its groups of runs, what was measured on them, and each recipe against the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from flatnext.runs.class_balance import is_uneven
from flatnext.runs.records import RunRecord, Session, StudyPlan, UnfinishedRun
from flatnext.study.contrasts import Contrast, Pair, baseline_of, default_pairs, planned_pairs
from flatnext.study.groups import Group, settings
from flatnext.study.measurements import Measurement, measurements
from flatnext.study.quantities import Quantity, quantities
from flatnext.study.statistics import Comparison, adjust


@dataclass(frozen=True)
class ReadPlan:
    """A plan, and the groups that have runs of it: the names in its contrasts are those of these groups."""

    plan: StudyPlan
    groups: tuple[Group, ...]

    @property
    def pairs(self) -> list[Pair]:
        """The contrasts that can be made: those that were planned by name, else each method with plain SGD."""
        return planned_pairs(self.groups, self.plan.contrasts) if self.plan.contrasts else default_pairs(self.groups)

    @property
    def missing(self) -> int:
        """How many contrasts were planned that cannot be made yet, as a recipe of theirs has no finished run.

        Where their number is not known, each recipe without a finished run stands for one.
        """
        plan = self.plan
        if plan.contrasts:
            return sum(not planned_pairs(self.groups, [names]) for names in plan.contrasts)
        if plan.comparisons is not None:
            there = [group for group in self.groups if group.config.recipe in plan.recipes]
            return max(0, plan.comparisons - len(default_pairs(there)))
        return sum(not any(name in (g.label, g.config.recipe) for g in self.groups) for name in set(plan.recipes))


@dataclass(frozen=True)
class Study:
    """Everything that a report needs. `groups` may be empty: then no run has finished.

    `plans` are those that were read, each with the groups that have runs of it. `paths` are the folders that the runs
    come from. `sequential`: seeds were added until the contrasts were decided. `begun_with`: how many seeds there were
    to be at first, where a later command added some; else None.
    """

    groups: tuple[Group, ...]
    left_out: tuple[UnfinishedRun, ...]
    plans: tuple[ReadPlan, ...] = ()
    paths: tuple[Path, ...] = ()
    sequential: bool = False
    begun_with: int | None = None

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
        return quantities(self.measurements, self.labels, sequential=self.sequential)

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
    def uneven(self) -> bool:
        """Whether the classes of the test images are uneven, as far as all runs say how theirs were classified."""
        matrices = [run.result.last.test.confusion for run in self.runs]
        return None not in matrices and any(map(is_uneven, filter(None, matrices)))

    @cached_property
    def headline(self) -> Quantity:
        """What recipes are compared by: the test accuracy of the last epoch, balanced over uneven classes."""
        return self.select("balanced_accuracy", split="test")[0] if self.uneven else self.accuracy

    @cached_property
    def baseline(self) -> Group | None:
        """The first group that trains with plain SGD, else the first."""
        return baseline_of(self.groups)

    @cached_property
    def missing(self) -> int:
        """How many contrasts were planned that cannot be made yet."""
        return sum(plan.missing for plan in self.plans)

    @cached_property
    def contrasts(self) -> tuple[Contrast, ...]:
        """The planned contrasts, else those with plain SGD, with Holm's correction for their number.

        Of several studies each has its own. Runs of no study are compared by default.
        """
        of_plans = {group.label for plan in self.plans for group in plan.groups}
        others = [pair for pair in default_pairs(self.groups) if pair[0].label not in of_plans]
        planned = [pair for plan in self.plans for pair in plan.pairs]
        by_labels = {(group.label, baseline.label): (group, baseline) for group, baseline in [*planned, *others]}
        pairs = list(by_labels.values())
        open_contrasts = [Contrast(group, baseline, None) for group, baseline in pairs]
        comparisons = self.compare(self.headline, open_contrasts) if pairs else []
        return tuple(
            Contrast(*pair, comparison, balanced=self.uneven)
            for pair, comparison in zip(pairs, comparisons, strict=True)
        )

    def compare(self, quantity: Quantity, contrasts: Sequence[Contrast]) -> list[Comparison | None]:
        """Compare a quantity in each contrast, with Holm's correction for their number; None where it cannot be.

        All that were planned count for the number.
        """
        pairs = [quantity.compare(*contrast.recipes) for contrast in contrasts]
        corrected = iter(adjust([pair for pair in pairs if pair is not None], self.missing + pairs.count(None)))
        return [pair and next(corrected) for pair in pairs]

    @cached_property
    def settings(self) -> dict[str, tuple[Any, ...]]:
        """Each setting but recipe and seed, with its value in each group; None where a group has no such setting."""
        by_group = [settings(group.config) for group in self.groups]
        names = {name: None for values in by_group for name in values}
        return {name: tuple(values.get(name) for values in by_group) for name in names}
