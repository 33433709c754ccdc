"""Two recipes compared epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flatnext.study.statistics import Estimate, adjust, compare_paired, estimate
from flatnext.study.table import Group


@dataclass(frozen=True)
class Epochs:
    """Two recipes epoch by epoch: the share of epochs at which the first is higher, over seeds; `better` and `worse`
    are the epochs at which a paired test shows it, the latter after Holm's correction for the number of epochs.
    `tested`: at some epoch the seeds differ, so that there is a test."""

    split: str
    number: int
    share: Estimate
    better: int
    worse: int
    tested: bool


def compare_epochs(group: Group, baseline: Group) -> Epochs | None:
    """Compare the accuracy of two groups at each epoch, on the test set, else on the validation split.

    None where they have no seed or no epoch with such an accuracy in common.
    """
    for split in ("test", "validation"):
        ours, theirs = (_curves(each, f"{split}_accuracy") for each in (group, baseline))
        seeds = sorted(ours.keys() & theirs.keys())
        epochs = sorted(set.intersection(*(set(curve[s]) for curve in (ours, theirs) for s in seeds))) if seeds else []
        if epochs:
            return _compare(split, [{s: (ours[s][e], theirs[s][e]) for s in seeds} for e in epochs])
    return None


def _curves(group: Group, field: str) -> dict[int, dict[int, float]]:
    found = {}
    for run in group.runs:
        curve = {epoch.epoch: value for epoch in run.epochs if (value := getattr(epoch, field)) is not None}
        if curve:
            found[run.config.seed] = curve
    return found


def _compare(split: str, epochs: list[Mapping[int, tuple[float, float]]]) -> Epochs:
    """Compare the pairs of accuracies by seed of each epoch."""
    comparisons = [
        compare_paired({s: ours for s, (ours, _) in pairs.items()}, {s: theirs for s, (_, theirs) in pairs.items()})
        for pairs in epochs
    ]
    # For "at each epoch" each test must hold by itself; a single epoch that contradicts is picked out of all.
    return Epochs(
        split=split,
        number=len(epochs),
        share=estimate(sum(pairs[s][0] > pairs[s][1] for pairs in epochs) / len(epochs) for s in epochs[0]),
        better=sum(comparison.verdict == "higher" for comparison in comparisons),
        worse=sum(comparison.verdict == "lower" for comparison in adjust(comparisons)),
        tested=any(comparison.p is not None for comparison in comparisons),
    )
