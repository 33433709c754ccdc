"""Measures over the runs of a study: by recipe, with the paired differences to the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flatnext.config import Config
from flatnext.study.measures import Family, Measure, Sample
from flatnext.study.records import RunRecord
from flatnext.study.statistics import Comparison, Estimate, compare_paired, estimate
from flatnext.study.table import Contrast, Group, Study, setting_text

_Samples = dict[Config, tuple[RunRecord, Sample]]  # by what no two runs of a study share, as they may a name


@dataclass(frozen=True)
class Row:
    """A measure in each group, by seed. `problem` says why it is not compared, or not summed up; empty if it is."""

    measure: Measure
    values: tuple[Mapping[int, float], ...]
    counts: tuple[int, ...]
    problem: str = ""

    def estimate(self, number: int) -> Estimate | None:
        """Return mean and spread over the seeds of a group, None where it was not measured."""
        return estimate(self.values[number].values()) if self.values[number] else None

    def compare(self, study: Study, contrast: Contrast) -> Comparison | None:
        """Return the group minus the baseline, None without a seed in common; nothing is corrected."""
        ours, theirs = (self.values[study.groups.index(group)] for group in (contrast.group, contrast.baseline))
        return compare_paired(ours, theirs) if ours.keys() & theirs.keys() else None


def rows(study: Study, family: Family) -> tuple[Row, ...]:
    """Return the measures of a family that any run has, in the order in which they first come."""
    found: dict[Measure, _Samples] = {}
    for run in study.runs:
        for measure, sample in family(run):
            found.setdefault(measure, {})[run.config] = (run, sample)
    return tuple(_row(measure, study.groups, samples) for measure, samples in found.items())


def _row(measure: Measure, groups: Sequence[Group], samples: _Samples) -> Row:
    counts = tuple(sorted({s.count for _, s in samples.values() if s.count is not None}))
    if differing := _differing([sample.conditions for _, sample in samples.values()]):
        return Row(measure, tuple({} for _ in groups), counts, f"measured with different settings: {differing}")
    infinite = [run.name for run, sample in samples.values() if sample.value is None]
    values: list[Mapping[int, float]] = []
    for group in groups:
        held = {run.config.seed: samples[run.config][1].value for run in group.runs if run.config in samples}
        finite = {seed: value for seed, value in held.items() if value is not None}
        values.append(finite if len(finite) == len(held) else {})
    return Row(measure, tuple(values), counts, f"not finite in {', '.join(infinite)}" if infinite else "")


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
