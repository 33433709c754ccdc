"""Two recipes compared epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flatnext.study.groups import Group
from flatnext.study.statistics import Estimate, adjust, compare_paired, estimate


@dataclass(frozen=True)
class EpochComparison:
    """The share of epochs at which the first recipe is higher, over seeds.

    `better` and `worse` are the epochs at which a paired test shows it, corrected for the number of contrasts, and the
    latter for that of epochs as well. `tested`: at some epoch the seeds differ, so that there is a test. `balanced`: it
    is of the balanced accuracy.
    """

    split: str
    number: int
    share: Estimate
    better: int
    worse: int
    tested: bool
    balanced: bool = False


def compare_epochs(
    group: Group, baseline: Group, *, contrasts: int = 1, balanced: bool = False, sequential: bool = False
) -> EpochComparison | None:
    """Compare the accuracy of two groups at each epoch, on the test set, else on the validation split.

    With `balanced` it is the balanced accuracy, which is kept of the validation split alone, where there is one. None
    where they have no seed or no epoch with such an accuracy in common. `sequential`: the number of seeds follows from
    what they showed. `contrasts`: of how many this is one.
    """
    fields = (*(("validation_balanced_accuracy",) if balanced else ()), "test_accuracy", "validation_accuracy")
    for field in fields:
        first, second = (_curves(item, field) for item in (group, baseline))
        seeds = sorted(first.keys() & second.keys())
        epochs = (
            sorted(set.intersection(*(set(curves[s]) for curves in (first, second) for s in seeds))) if seeds else []
        )
        if epochs:
            pairs = [{s: (first[s][e], second[s][e]) for s in seeds} for e in epochs]
            return _compare(field, pairs, contrasts, sequential)
    return None


def _curves(group: Group, field: str) -> dict[int, dict[int, float]]:
    """Return by seed the values of a field by epoch, of the epochs that have one."""
    curves = {
        run.config.seed: {epoch.epoch: value for epoch in run.epochs if (value := getattr(epoch, field)) is not None}
        for run in group.runs
    }
    return {seed: curve for seed, curve in curves.items() if curve}


def _compare(
    field: str, epochs: Sequence[Mapping[int, tuple[float, float]]], contrasts: int, sequential: bool
) -> EpochComparison:
    """Compare the pairs of accuracies by seed of each epoch; `field` is what holds them in an epoch."""
    comparisons = [
        compare_paired(
            {s: a for s, (a, _) in pairs.items()}, {s: b for s, (_, b) in pairs.items()}, sequential=sequential
        )
        for pairs in epochs
    ]
    others = contrasts - 1  # counted as if they showed nothing, which is never too little
    # For "at each epoch" each test must hold by itself; a single epoch that contradicts is picked out of all.
    return EpochComparison(
        split=field.partition("_")[0],
        number=len(epochs),
        share=estimate(
            (sum(pairs[s][0] > pairs[s][1] for pairs in epochs) / len(epochs) for s in epochs[0]), sequential=sequential
        ),
        better=sum(adjust([comparison], others)[0].verdict == "higher" for comparison in comparisons),
        worse=sum(comparison.verdict == "lower" for comparison in adjust(comparisons, others * len(comparisons))),
        tested=any(comparison.p is not None for comparison in comparisons),
        balanced="balanced" in field,
    )
