"""Measures over the runs of a study: by recipe, with the paired differences to the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flatnext.config import Config
from flatnext.runs.records import RunRecord
from flatnext.study.measures import Family, Measure, Sample
from flatnext.study.statistics import Comparison, Estimate, compare_paired, estimate
from flatnext.study.table import Contrast, Group, Study, setting_text

_Samples = dict[Config, tuple[RunRecord, Sample]]  # by what no two runs of a study share, as they may a name


@dataclass(frozen=True)
class Row:
    """A measure in each group, by seed; of a group whose runs cannot be summed up there are no values.

    `counts` are the numbers of images, and `conditions` the rest that it depends on, of each group's runs; `infinite`
    are the names of its runs in which the value was not finite.
    """

    measure: Measure
    values: tuple[Mapping[int, float], ...]
    counts: tuple[tuple[int, ...], ...]
    conditions: tuple[tuple[Mapping[str, Any], ...], ...]
    infinite: tuple[tuple[str, ...], ...]

    def images(self, *numbers: int) -> list[int]:
        """Return on how many images these groups (none named: all) were measured, each number once."""
        return sorted({count for number in numbers or range(len(self.counts)) for count in self.counts[number]})

    def problem(self, *numbers: int) -> str:
        """Return why these groups (none named: all) are not compared, or not summed up; empty if they are."""
        chosen = numbers or range(len(self.values))
        if differing := _differing([each for number in chosen for each in self.conditions[number]]):
            return f"measured with different settings: {differing}"
        names = [name for number in chosen for name in self.infinite[number]]
        return f"not finite in {', '.join(names)}" if names else ""

    def problem_between(self, study: Study, contrast: Contrast) -> str:
        """Return why the two groups of a contrast are not compared; empty if they are."""
        return self.problem(*sorted(places(study, contrast)))

    def estimate(self, number: int) -> Estimate | None:
        """Return mean and spread over the seeds of a group, None where it was not measured."""
        return estimate(self.values[number].values()) if self.values[number] else None

    def compare(self, study: Study, contrast: Contrast) -> Comparison | None:
        """Return the group minus the baseline, not corrected; None without a seed in common or with a problem."""
        if self.problem_between(study, contrast):
            return None
        ours, theirs = (self.values[place] for place in places(study, contrast))
        return compare_paired(ours, theirs) if ours.keys() & theirs.keys() else None


def places(study: Study, contrast: Contrast) -> tuple[int, int]:
    """Return the numbers of the two groups of a contrast, the baseline last."""
    return study.groups.index(contrast.group), study.groups.index(contrast.baseline)


def rows(study: Study, family: Family) -> tuple[Row, ...]:
    """Return the measures of a family that any run has, in the order in which they first come."""
    found: dict[Measure, _Samples] = {}
    for run in study.runs:
        for measure, sample in family(run):
            found.setdefault(measure, {})[run.config] = (run, sample)
    return tuple(_row(measure, study.groups, samples) for measure, samples in found.items())


def _row(measure: Measure, groups: Sequence[Group], samples: _Samples) -> Row:
    held = [
        [(*samples[run.config], run.config.seed) for run in group.runs if run.config in samples] for group in groups
    ]
    row = Row(
        measure,
        tuple({seed: sample.value for _, sample, seed in each if sample.value is not None} for each in held),
        tuple(tuple(sample.count for _, sample, _ in each if sample.count is not None) for each in held),
        tuple(tuple(sample.conditions for _, sample, _ in each) for each in held),
        tuple(tuple(run.name for run, sample, _ in each if sample.value is None) for each in held),
    )
    return replace(row, values=tuple({} if row.problem(n) else row.values[n] for n in range(len(groups))))


def _differing(conditions: Iterable[Mapping[str, Any]]) -> str:
    """Return the conditions that are not the same in all runs, with what they are; empty if all are."""
    held = list(conditions)
    names = dict.fromkeys(name for each in held for name in each)
    texts = {name: list(dict.fromkeys(_text(each.get(name)) for each in held)) for name in names}
    return "; ".join(f"{name} {' or '.join(values)}" for name, values in texts.items() if len(values) > 1)


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return "none" if value is None else setting_text(value)
