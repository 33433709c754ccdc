"""What is claimed of AMP, and what the study's runs say to each claim: the words follow from the statistics alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from flatnext.study import measures
from flatnext.study.epochs import Epochs, compare_epochs
from flatnext.study.measures import Direction, Family, lost_name
from flatnext.study.rows import Row, places, rows
from flatnext.study.statistics import Comparison, adjust
from flatnext.study.table import Contrast, Group, Study

Verdict = Literal[
    "shown",
    "not shown",
    "the opposite is shown",
    "shown to be false",
    "n = 1: no statement",
    "no spread: no test",
    "no seed in common",
    "not comparable",
    "not measured",
]


@dataclass(frozen=True)
class Claim:
    """A claim: that the measures of these kinds, of one family, go the way that is better, or the way it `expects`.

    `part` is the part of the evidence that they are in, empty for what training leaves. The kinds `beside` are shown
    with it and decide nothing.
    """

    text: str
    source: str
    family: Family
    kinds: tuple[str, ...]
    part: str = ""
    expects: Direction | None = None
    beside: tuple[str, ...] = ()


REPORT, AUTHORS = "the course report", "AMP's authors"

ROBUST = f'{REPORT}, as "more robust"'

FLAT = ("sharpness.asam", "rise.random")
"""What decides whether a minimum is flatter: the others depend on the scale of the weights, and only describe."""

ACCURACY = Claim("higher test accuracy", REPORT, measures.training, ("accuracy",))
EACH_EPOCH = Claim("higher accuracy at each epoch", REPORT, measures.training, ())

CLAIMS = (
    ACCURACY,
    Claim("lower test loss", REPORT, measures.training, ("loss",)),
    EACH_EPOCH,
    Claim("a flatter minimum", f"{REPORT}, {AUTHORS}", measures.flatness, FLAT, "flatness"),
    Claim("less overfitting", f"{REPORT}, {AUTHORS}", measures.flatness, ("gap",), "flatness"),
    Claim("higher accuracy under attack", ROBUST, measures.attacks, ("attack",), "attacks"),
    Claim(
        "higher accuracy on corrupted images",
        ROBUST,
        measures.corruptions,
        ("corruptions.generated", "corruptions.published"),
        "corruptions",
        beside=("corruptions.lost",),
    ),
    Claim(
        "better calibrated",
        AUTHORS,
        measures.calibration,
        ("ece", "adaptive_ece"),
        "calibration",
        beside=("ece.scaled",),
    ),
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
    """A claim about one group against its baseline. `problem` says what could not be tested, and why.

    What is `beside` decides nothing, and nothing is corrected for it.
    """

    claim: Claim
    contrast: Contrast
    verdict: Verdict
    tested: tuple[Tested, ...] = ()
    problem: str = ""
    epochs: Epochs | None = None
    beside: tuple[tuple[Row, Comparison], ...] = ()

    def count(self, outcome: str) -> int:
        """Return how many of the measures are `for` the claim, `against` it, or `open`."""
        return sum(tested.outcome == outcome for tested in self.tested)


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


def same_but_for_method(group: Group, other: Group) -> bool:
    """Return whether the configs differ in nothing but the method and the recipe's name."""
    return replace(group.config, recipe=other.config.recipe, method=other.config.method) == other.config


def _contrasts(study: Study) -> list[Contrast]:
    """Return each group that is not plain SGD against its twin with plain SGD, without one against the baseline."""
    plain = [group for group in study.groups if group.config.method.name == "sgd"]
    found = []
    for contrast in study.contrasts:
        if contrast.group.config.method.name != "sgd":
            twins = [group for group in plain if same_but_for_method(contrast.group, group)]
            other = bool(twins) and contrast.baseline not in twins
            found.append(Contrast(contrast.group, twins[0], None) if other else contrast)
    return found


def _answers(study: Study, claim: Claim) -> list[Answer]:
    contrasts = _contrasts(study)
    if claim is EACH_EPOCH:
        return [_each_epoch(claim, contrast) for contrast in contrasts]
    family = rows(study, claim.family)
    chosen = [_chosen(claim, family, places(study, contrast)) for contrast in contrasts]
    found = [
        (number, row, comparison)
        for number, contrast in enumerate(contrasts)
        for row in chosen[number]
        if (comparison := row.compare(study, contrast)) is not None
    ]
    corrected = adjust([comparison for *_, comparison in found])
    tested: list[list[Tested]] = [[] for _ in contrasts]
    for (number, row, _), comparison in zip(found, corrected, strict=True):
        # The report's headline is corrected for all groups: where it is of the same two, it must be the same here.
        headline = contrasts[number].comparison if claim is ACCURACY else None
        supports = claim.expects or row.measure.better
        assert supports is not None
        tested[number].append(Tested(row, headline or comparison, supports))
    return [
        replace(
            _answer(study, claim, contrast, tuple(each), own),
            beside=_compared(study, contrast, _beside(claim, own, family)),
        )
        for contrast, each, own in zip(contrasts, tested, chosen, strict=True)
    ]


def _beside(claim: Claim, chosen: Sequence[Row], family: Sequence[Row]) -> list[Row]:
    """Return the rows that a claim is shown with: its own kinds, and what the chosen attacks take of the accuracy."""
    names = {lost_name(row.measure.name) for row in chosen}
    return [row for row in family if row.measure.kind in claim.beside or row.measure.name in names]


def _compared(study: Study, contrast: Contrast, found: Sequence[Row]) -> tuple[tuple[Row, Comparison], ...]:
    pairs = ((row, row.compare(study, contrast)) for row in found)
    return tuple((row, comparison) for row, comparison in pairs if comparison is not None)


def _answer(
    study: Study, claim: Claim, contrast: Contrast, tested: tuple[Tested, ...], chosen: Sequence[Row]
) -> Answer:
    found = [(row.measure.name, row.problem_between(study, contrast)) for row in chosen]
    problems = "; ".join(f"{name} ({problem})" for name, problem in found if problem)
    if tested:
        return Answer(claim, contrast, verdict(tested), tested, problems)
    if problems:
        return Answer(claim, contrast, "not comparable", problem=problems)
    pair = places(study, contrast)
    if any(all(row.values[place] for place in pair) for row in chosen):
        return Answer(claim, contrast, "no seed in common")
    missing = [study.groups[place].label for place in pair if not any(row.values[place] for row in chosen)]
    problem = "" if len(missing) == len(pair) else f"not for {missing[0]}" if missing else "not the same for both"
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


def _chosen(claim: Claim, found: Sequence[Row], pair: tuple[int, int]) -> list[Row]:
    """Return the rows that answer a claim about two groups; which they are does not depend on which of them is ahead.

    Of a kind that was measured at several radii it is the middle one (the lower of two), since they are all but the
    same question. Of several attacks within one budget it is the one that leaves the least accuracy to the two,
    since each is an upper bound of the same quantity; of two alike the later, which is the dearer.
    """
    if claim.kinds == ("attack",):
        return _strongest(_complete([row for row in found if row.measure.kind.startswith("attack.")], pair), pair)
    chosen = []
    for kind in claim.kinds:
        held = _complete([row for row in found if row.measure.kind == kind], pair)
        same = sorted(held, key=lambda row: row.measure.at or 0.0)
        chosen += same[(len(same) - 1) // 2 :][:1]
    return chosen


def _complete(found: Sequence[Row], pair: tuple[int, int]) -> Sequence[Row]:
    """Return the rows that were measured for both groups, or all rows where there is none."""
    return [row for row in found if all(row.conditions[number] for number in pair)] or found


def _strongest(found: Sequence[Row], pair: tuple[int, int]) -> list[Row]:
    def left(row: Row) -> float:
        values = [value for number in pair for value in row.values[number].values()]
        return sum(values) / len(values) if values and not row.problem(*pair) else 2.0  # only if there is no other

    best: dict[str, Row] = {}
    for row in found:
        budget = row.measure.name.split(", ", 1)[1]
        if budget not in best or left(row) <= left(best[budget]):
            best[budget] = row
    return list(best.values())


def _each_epoch(claim: Claim, contrast: Contrast) -> Answer:
    found = compare_epochs(contrast.group, contrast.baseline)
    if found is not None:
        return Answer(claim, contrast, _epochs_verdict(found), epochs=found)
    ours, theirs = ({run.config.seed for run in group.runs} for group in (contrast.group, contrast.baseline))
    if not ours & theirs:
        return Answer(claim, contrast, "no seed in common")
    return Answer(claim, contrast, "not comparable", problem="the runs hold no test or validation accuracy by epoch")


def _epochs_verdict(found: Epochs) -> Verdict:
    if found.share.n == 1:
        return "n = 1: no statement"
    if not found.tested:
        return "no spread: no test"
    if found.worse:  # one contrary epoch refutes "at each", but shows nothing of the others
        return "shown to be false"
    return "shown" if found.better == found.number else "not shown"
