"""What is claimed of AMP, and what the study's runs say to each claim: the words follow from the statistics alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from flatnext.study import measures
from flatnext.study.measures import Direction, Family
from flatnext.study.rows import Row, rows
from flatnext.study.statistics import Comparison, Estimate, adjust, compare_paired, estimate
from flatnext.study.table import Contrast, Group, Study

Verdict = Literal[
    "shown",
    "not shown",
    "the opposite is shown",
    "n = 1: no statement",
    "no spread: no test",
    "no seed in common",
    "not comparable",
    "not measured",
]


@dataclass(frozen=True)
class Claim:
    """A claim: that the measures of these kinds, of one family, go the way that is better, or the way it `expects`.

    `part` is the part of the evidence that they are in, empty for what training leaves.
    """

    text: str
    source: str
    family: Family
    kinds: tuple[str, ...]
    part: str = ""
    expects: Direction | None = None


REPORT, AUTHORS = "the report", "AMP's authors"

FLAT = ("sharpness.amp", "sharpness.sam", "sharpness.asam", "rise.random", "eigenvalue", "trace")

ACCURACY = Claim("higher test accuracy", REPORT, measures.training, ("accuracy",))
EACH_EPOCH = Claim("higher accuracy at each epoch", REPORT, measures.training, ())

CLAIMS = (
    ACCURACY,
    Claim("lower test loss", REPORT, measures.training, ("loss",)),
    EACH_EPOCH,
    Claim("a flatter minimum", f"{REPORT}, {AUTHORS}", measures.flatness, FLAT, "flatness"),
    Claim("less overfitting", f"{REPORT}, {AUTHORS}", measures.flatness, ("gap",), "flatness"),
    Claim("more robust to adversarial examples", REPORT, measures.attacks, ("attack",), "attacks"),
    Claim(
        "more robust to corrupted images",
        REPORT,
        measures.corruptions,
        ("corruptions.generated", "corruptions.published"),
        "corruptions",
    ),
    Claim("better calibrated", AUTHORS, measures.calibration, ("ece", "adaptive_ece"), "calibration"),
    Claim("longer training", REPORT, measures.training, ("seconds",), expects="higher"),
)


@dataclass(frozen=True)
class Tested:
    """A measure that a claim rests on, its comparison, and whether it goes the way that the claim says."""

    row: Row
    comparison: Comparison
    supports: Direction

    @property
    def outcome(self) -> Literal["for", "against", "open"]:
        """What the comparison says of the claim."""
        found = self.comparison.verdict
        return "open" if found == "open" else "for" if found == self.supports else "against"


@dataclass(frozen=True)
class Answer:
    """A claim about one group against the baseline. `problem` says what could not be tested, and why."""

    claim: Claim
    contrast: Contrast
    verdict: Verdict
    tested: tuple[Tested, ...] = ()
    problem: str = ""
    epochs: Epochs | None = None

    def count(self, outcome: str) -> int:
        """Return how many of the measures are `for` the claim, `against` it, or `open`."""
        return sum(tested.outcome == outcome for tested in self.tested)


@dataclass(frozen=True)
class Epochs:
    """Two recipes epoch by epoch: the share of epochs at which the first is higher, over seeds; `better` and `worse`
    are the epochs at which a paired test shows it, the latter after Holm's correction for the number of epochs."""

    split: str
    number: int
    share: Estimate
    better: int
    worse: int


def can_answer(study: Study) -> bool:
    """Return whether there is a method to compare with plain SGD."""
    baseline = study.baseline
    return baseline is not None and baseline.config.method.name == "sgd" and bool(_contrasts(study))


def answers(study: Study) -> tuple[Answer, ...]:
    """Return the answer to each claim for each group whose method is not plain SGD.

    p is corrected by Holm's procedure for all comparisons that answer one claim: its measures, times the groups. The
    claims are separate questions: nothing is corrected for their number.
    """
    if not can_answer(study):
        return ()
    return tuple(answer for claim in CLAIMS for answer in _answers(study, claim))


def _contrasts(study: Study) -> list[Contrast]:
    return [contrast for contrast in study.contrasts if contrast.group.config.method.name != "sgd"]


def _answers(study: Study, claim: Claim) -> list[Answer]:
    contrasts = _contrasts(study)
    if claim is EACH_EPOCH:
        return [_each_epoch(claim, contrast) for contrast in contrasts]
    chosen = _chosen(claim, rows(study, claim.family))
    found = [
        (number, row, comparison)
        for number, contrast in enumerate(contrasts)
        for row in chosen
        if not row.problem and (comparison := _compare(study, claim, row, contrast)) is not None
    ]
    corrected = [c for *_, c in found] if claim is ACCURACY else adjust([c for *_, c in found])
    tested: list[list[Tested]] = [[] for _ in contrasts]
    for (number, row, _), comparison in zip(found, corrected, strict=True):
        supports = claim.expects or row.measure.better
        assert supports is not None
        tested[number].append(Tested(row, comparison, supports))
    return [_answer(study, claim, c, tuple(t), chosen) for c, t in zip(contrasts, tested, strict=True)]


def _compare(study: Study, claim: Claim, row: Row, contrast: Contrast) -> Comparison | None:
    # The accuracy's is the report's headline, corrected for all groups: it must be the same here.
    return contrast.comparison if claim is ACCURACY else row.compare(study, contrast)


def _answer(
    study: Study, claim: Claim, contrast: Contrast, tested: tuple[Tested, ...], chosen: Sequence[Row]
) -> Answer:
    problems = "; ".join(f"{row.measure.name} ({row.problem})" for row in chosen if row.problem)
    if tested:
        return Answer(claim, contrast, verdict(tested), tested, problems)
    if problems:
        return Answer(claim, contrast, "not comparable", problem=problems)
    places = [study.groups.index(group) for group in (contrast.group, contrast.baseline)]
    if any(all(row.values[place] for place in places) for row in chosen):
        return Answer(claim, contrast, "no seed in common")
    missing = [study.groups[place].label for place in places if not any(row.values[place] for row in chosen)]
    problem = "" if len(missing) == len(places) else f"not for {missing[0]}" if missing else "not the same for both"
    return Answer(claim, contrast, "not measured", problem=problem)


def verdict(tested: Sequence[Tested]) -> Verdict:
    """Return what the comparisons that answer a claim show together.

    It is shown if a difference is shown in the claim's direction by some measure, and in the other by none; and the
    opposite the other way round. Measures that disagree show neither.
    """
    if max(each.comparison.n for each in tested) == 1:
        return "n = 1: no statement"
    outcomes = {each.outcome for each in tested if each.comparison.p_adjusted is not None}
    if not outcomes:
        return "no spread: no test"
    if outcomes >= {"for", "against"} or outcomes == {"open"}:
        return "not shown"
    return "shown" if "for" in outcomes else "the opposite is shown"


def _chosen(claim: Claim, found: Sequence[Row]) -> list[Row]:
    """Return the rows that answer a claim; which they are does not depend on how they came out.

    Of a kind that was measured at several radii it is the middle one (the lower of two), since they are all but the
    same question. Of several attacks within one budget it is the one that leaves the least accuracy over all recipes,
    since each is an upper bound of the same quantity; of two alike the later, which is the dearer.
    """
    if claim.kinds == ("attack",):
        return _strongest(_complete([row for row in found if row.measure.kind.startswith("attack.")]))
    chosen = []
    for kind in claim.kinds:
        held = _complete([row for row in found if row.measure.kind == kind])
        same = sorted(held, key=lambda row: row.measure.at or 0.0)
        chosen += same[(len(same) - 1) // 2 :][:1]
    return chosen


def _complete(found: Sequence[Row]) -> Sequence[Row]:
    """Return the rows that were measured for all recipes, or all rows where there is none."""
    return [row for row in found if row.problem or all(row.values)] or found


def _strongest(found: Sequence[Row]) -> list[Row]:
    def left(row: Row) -> float:
        values = [value for by_seed in row.values for value in by_seed.values()]
        return sum(values) / len(values) if values else 2.0  # not comparable: only if there is no other

    best: dict[str, Row] = {}
    for row in found:
        budget = row.measure.name.split(", ", 1)[1]
        if budget not in best or left(row) <= left(best[budget]):
            best[budget] = row
    return list(best.values())


def _each_epoch(claim: Claim, contrast: Contrast) -> Answer:
    for split in ("test", "validation"):
        curves = [_curves(group, f"{split}_accuracy") for group in (contrast.group, contrast.baseline)]
        seeds = sorted(curves[0].keys() & curves[1].keys())
        epochs = sorted(set.intersection(*(set(curve[seed]) for curve in curves for seed in seeds))) if seeds else []
        if epochs:
            return _compare_epochs(claim, contrast, split, seeds, epochs, curves)
    if contrast.comparison is None:
        return Answer(claim, contrast, "no seed in common")
    return Answer(claim, contrast, "not comparable", problem="the runs hold no test or validation accuracy by epoch")


def _curves(group: Group, field: str) -> dict[int, dict[int, float]]:
    found = {}
    for run in group.runs:
        curve = {epoch.epoch: value for epoch in run.epochs if (value := getattr(epoch, field)) is not None}
        if curve:
            found[run.config.seed] = curve
    return found


def _compare_epochs(
    claim: Claim,
    contrast: Contrast,
    split: str,
    seeds: Sequence[int],
    epochs: Sequence[int],
    curves: Sequence[dict[int, dict[int, float]]],
) -> Answer:
    ours, theirs = curves
    comparisons = [
        compare_paired({seed: ours[seed][epoch] for seed in seeds}, {seed: theirs[seed][epoch] for seed in seeds})
        for epoch in epochs
    ]
    # For "at each epoch" each test must hold by itself; a single epoch that contradicts is picked out of all.
    better = sum(comparison.verdict == "higher" for comparison in comparisons)
    worse = sum(comparison.verdict == "lower" for comparison in adjust(comparisons))
    share = estimate(sum(ours[s][e] > theirs[s][e] for e in epochs) / len(epochs) for s in seeds)
    found = Epochs(split, len(epochs), share, better, worse)
    return Answer(claim, contrast, _epochs_verdict(found, comparisons), epochs=found)


def _epochs_verdict(found: Epochs, comparisons: Sequence[Comparison]) -> Verdict:
    if found.share.n == 1:
        return "n = 1: no statement"
    if all(comparison.p is None for comparison in comparisons):
        return "no spread: no test"
    if found.worse:
        return "the opposite is shown"
    return "shown" if found.better == found.number else "not shown"
