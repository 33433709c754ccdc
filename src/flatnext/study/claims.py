"""What is claimed of AMP, and what the study's runs say to each claim: decided by the columns of the table alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from flatnext.study.contrasts import Contrast, is_plain
from flatnext.study.epoch_comparison import EpochComparison, compare_epochs
from flatnext.study.measures import Direction
from flatnext.study.quantities import Quantity
from flatnext.study.statistics import FEWEST_SEEDS, Comparison, adjust
from flatnext.study.study import Study

Verdict = Literal[
    "shown",
    "not shown",
    "the opposite is shown",
    "shown to be false",
    "by construction",
    "n = 1: no statement",
    "n = 2: no statement",
    "no spread: no test",
    "no seed in common",
    "not comparable",
    "not measured",
]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim: that these measures go the way that is better, or the way it `expects`.

    With `at` they are taken at a radius or a budget. `measurement` is the part of the evidence that they are in, empty
    for what training leaves. Those `beside` are shown with it and decide nothing; for each attack that decides, what it
    takes of the accuracy is among them.
    """

    text: str
    source: str
    measures: tuple[str, ...]
    split: str = "*"
    at: bool = False
    measurement: str = ""
    expects: Direction | None = None
    beside: tuple[str, ...] = ()


PAPER, AUTHORS = "the baseline paper", "AMP's authors"

ROBUST = f'{PAPER}, as "more robust"'

FLAT = ("sharpness.asam", "rise.random")
"""What decides whether a minimum is flatter: the others depend on the scale of the weights, and only describe."""

ACCURACY = Claim(text="higher test accuracy", source=PAPER, measures=("accuracy",), split="test")
BALANCED = replace(ACCURACY, text="higher balanced test accuracy", measures=("balanced_accuracy",))
HEADLINES = (ACCURACY, BALANCED)
"""What the headline of a study decides: the first, of uneven classes the other."""

EACH_EPOCH = Claim(text="higher accuracy at each epoch", source=PAPER, measures=())
LONGER = Claim(text="longer training", source=PAPER, measures=("seconds_per_epoch",), expects="higher")

CLAIMS = (
    ACCURACY,
    Claim(text="lower test loss", source=PAPER, measures=("loss",), split="test"),
    EACH_EPOCH,
    Claim(text="a flatter minimum", source=f"{PAPER}, {AUTHORS}", measures=FLAT, at=True, measurement="flatness"),
    Claim(text="less overfitting", source=f"{PAPER}, {AUTHORS}", measures=("loss.gap",), measurement="flatness"),
    Claim(text="higher accuracy under attack", source=ROBUST, measures=("attack.*.*",), at=True, measurement="attacks"),
    Claim(
        text="higher accuracy on corrupted images",
        source=ROBUST,
        measures=("corruptions.mean",),
        measurement="corruptions",
        beside=("corruptions.lost",),
    ),
    Claim(
        text="better calibrated",
        source=AUTHORS,
        measures=("ece", "adaptive_ece"),
        measurement="calibration",
        beside=("ece.scaled",),
    ),
    LONGER,
)


@dataclass(frozen=True)
class Tested:
    """A quantity that a claim rests on, its comparison, and the direction that supports the claim."""

    quantity: Quantity
    comparison: Comparison
    supports: Direction

    @property
    def outcome(self) -> Literal["for", "against", "open"]:
        """What the comparison says of the claim."""
        verdict = self.comparison.verdict
        return "open" if verdict == "open" else "for" if verdict == self.supports else "against"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A claim about one group against its baseline. `problem` says what could not be tested, and why.

    What is `beside` decides nothing, and nothing is corrected for it.
    """

    claim: Claim
    contrast: Contrast
    verdict: Verdict
    tested: tuple[Tested, ...] = ()
    problem: str = ""
    epochs: EpochComparison | None = None
    beside: tuple[tuple[Quantity, Comparison], ...] = ()

    def count(self, outcome: str) -> int:
        """Return how many of the comparisons are `for` the claim, `against` it, or `open`."""
        return sum(tested.outcome == outcome for tested in self.tested)


def can_answer(study: Study) -> bool:
    """Return whether there is a method to compare with plain SGD."""
    return bool(_contrasts(study))


def answers(study: Study) -> tuple[Answer, ...]:
    """Return the answer to each claim for each contrast of a method with plain SGD.

    p and interval are corrected by Holm's procedure for all comparisons that answer one claim: its measures, times all
    contrasts of the study, also those with a baseline other than plain SGD, which are no claim. Those that are not
    finished count with a p of 1. The claims are separate questions: nothing is corrected for their number.
    """
    by_claim = (
        [_each_epoch(study, contrast) for contrast in _contrasts(study)]
        if claim is EACH_EPOCH
        else _answers(study, BALANCED if claim is ACCURACY and study.uneven else claim)
        for claim in CLAIMS
    )
    return tuple(answer for answers in by_claim for answer in answers)


def verdict(tested: Sequence[Tested]) -> Verdict:
    """Return what the comparisons that answer a claim show together.

    It is shown if a difference is shown in the claim's direction by some measure, and in the other by none; and the
    opposite the other way round. Measures that disagree show neither.
    """
    if too_few := _too_few(max(item.comparison.n for item in tested)):
        return too_few
    outcomes = {item.outcome for item in tested if item.comparison.p_adjusted is not None}
    if not outcomes:
        return "no spread: no test"
    if outcomes >= {"for", "against"} or outcomes == {"open"}:
        return "not shown"
    return "shown" if "for" in outcomes else "the opposite is shown"


def _too_few(seeds: int) -> Verdict | None:
    """Return the verdict where there are too few seeds for one."""
    return cast(Verdict, f"n = {seeds}: no statement") if seeds < FEWEST_SEEDS else None


def _contrasts(study: Study) -> list[Contrast]:
    """Return the contrasts of a method with plain SGD."""
    return [contrast for contrast in study.contrasts if _is_claim(contrast)]


def _is_claim(contrast: Contrast) -> bool:
    return is_plain(contrast.baseline) and not is_plain(contrast.group)


def _answers(study: Study, claim: Claim) -> list[Answer]:
    deciding = [_deciding(study, claim, contrast) for contrast in study.contrasts]
    pairs = [
        (contrast, quantity, comparison)
        for contrast, quantities in zip(study.contrasts, deciding, strict=True)
        for quantity in quantities
        if (comparison := quantity.compare(*contrast.recipes)) is not None
    ]
    # What cannot be compared counts too, and a contrast that has not run as much as the largest of those that have.
    missing = sum(map(len, deciding)) - len(pairs) + study.missing * max(map(len, deciding), default=0)
    tested: dict[tuple[str, str], list[Tested]] = {contrast.recipes: [] for contrast in study.contrasts}
    corrected = adjust([comparison for *_, comparison in pairs], missing)
    for (contrast, quantity, _), comparison in zip(pairs, corrected, strict=True):
        supports = claim.expects or quantity.measure.better
        assert supports is not None
        tested[contrast.recipes].append(Tested(quantity, comparison, supports))
    return [
        _answer(study, claim, contrast, tuple(tested[contrast.recipes]), candidates)
        for contrast, candidates in zip(study.contrasts, deciding, strict=True)
        if _is_claim(contrast)
    ]


def _answer(
    study: Study, claim: Claim, contrast: Contrast, tested: tuple[Tested, ...], deciding: Sequence[Quantity]
) -> Answer:
    recipes = contrast.recipes
    problems = [(quantity.label, quantity.problem(*recipes)) for quantity in deciding]
    answer = Answer(
        claim=claim,
        contrast=contrast,
        verdict="not measured",
        tested=tested,
        problem="; ".join(f"{label} ({problem})" for label, problem in problems if problem),
        beside=_beside(study, claim, deciding, recipes),
    )
    if tested and (decided := verdict(tested)) in ("shown", "the opposite is shown"):
        return replace(answer, verdict=decided)
    if claim is LONGER and contrast.group.config.passes > contrast.baseline.config.passes:
        return replace(answer, verdict="by construction")
    if tested:
        return replace(answer, verdict=decided)
    if answer.problem:
        return replace(answer, verdict="not comparable")
    if any(all(quantity.rows[recipe] for recipe in recipes) for quantity in deciding):
        return replace(answer, verdict="no seed in common")
    missing = [recipe for recipe in recipes if not any(quantity.rows[recipe] for quantity in deciding)]
    if not missing:
        places = " or ".join(dict.fromkeys(quantity.label for quantity in deciding))
        splits = " or ".join(dict.fromkeys(quantity.split for quantity in deciding))
        return replace(answer, verdict="not comparable", problem=f"not the same for both: {places} ({splits} images)")
    return replace(answer, problem="" if len(missing) == len(recipes) else f"not for {missing[0]}")


def _deciding(study: Study, claim: Claim, contrast: Contrast) -> list[Quantity]:
    """Return the quantities that answer a claim about two recipes, whichever of them is ahead.

    Of a measure that was taken at several radii it is the middle one (the lower of two), since they are all but the
    same question. Of several attacks within one budget it is the one that leaves the least accuracy to the two,
    since each is an upper bound of the same quantity; of two alike the later, which costs more. Of training time it is
    that of an epoch, which a pause does not move, unless the recipes differ in their epochs.
    """
    deciding: list[Quantity] = []
    recipes, measures = contrast.recipes, claim.measures
    if claim is LONGER and not _same_epochs(contrast):
        measures = ("train_seconds",)
    for pattern in measures:
        candidates = study.select(pattern, split=claim.split, at=claim.at)
        candidates = [q for q in candidates if all(q.rows[recipe] for recipe in recipes)] or candidates
        if claim.measurement == "attacks":
            return _strongest(candidates, recipes)
        for split in dict.fromkeys(quantity.split for quantity in candidates):
            by_radius = sorted((q for q in candidates if q.split == split), key=lambda q: q.at or 0.0)
            deciding += by_radius[(len(by_radius) - 1) // 2 :][:1]
    return deciding


def _strongest(attacks: Sequence[Quantity], recipes: tuple[str, str]) -> list[Quantity]:
    def left(attack: Quantity) -> float:
        values = [value for recipe in recipes for value in attack.values(recipe).values()]
        return sum(values) / len(values) if values and not attack.problem(*recipes) else 2.0  # if there is no other

    strongest: dict[tuple[str, float | None, str], Quantity] = {}
    for attack in attacks:
        budget = (attack.measure.norm, attack.at, attack.split)
        if budget not in strongest or left(attack) <= left(strongest[budget]):
            strongest[budget] = attack
    return list(strongest.values())


def _beside(
    study: Study, claim: Claim, deciding: Sequence[Quantity], recipes: tuple[str, str]
) -> tuple[tuple[Quantity, Comparison], ...]:
    """Return what a claim is shown with: its own measures, and what the deciding attacks take of the accuracy."""
    attacks = {(q.measure.name, q.measure.norm, q.at, q.split) for q in deciding if q.measure.norm}
    shown = [q for q in study.select("lost.*") if (q.measure.name, q.measure.norm, q.at, q.split) in attacks]
    pairs = ((q, q.compare(*recipes)) for q in (*study.select(*claim.beside), *shown))
    return tuple((quantity, comparison) for quantity, comparison in pairs if comparison is not None)


def _same_epochs(contrast: Contrast) -> bool:
    return contrast.group.config.epochs == contrast.baseline.config.epochs


def _each_epoch(study: Study, contrast: Contrast) -> Answer:
    if not _same_epochs(contrast):
        problem = "the recipes differ in their epochs"
        return Answer(claim=EACH_EPOCH, contrast=contrast, verdict="not comparable", problem=problem)
    epochs = compare_epochs(
        *(contrast.group, contrast.baseline),
        contrasts=len(study.contrasts) + study.missing,
        balanced=study.uneven,
        sequential=study.sequential,
    )
    answer = Answer(claim=EACH_EPOCH, contrast=contrast, verdict="not comparable", epochs=epochs)
    if epochs is not None:
        return replace(answer, verdict=_epochs_verdict(epochs))
    seeds, others = ({run.config.seed for run in group.runs} for group in (contrast.group, contrast.baseline))
    if not seeds & others:
        return replace(answer, verdict="no seed in common")
    return replace(answer, problem="the runs hold no test or validation accuracy by epoch")


def _epochs_verdict(epochs: EpochComparison) -> Verdict:
    if too_few := _too_few(epochs.share.n):
        return too_few
    if not epochs.tested:
        return "no spread: no test"
    if epochs.worse:  # one contrary epoch refutes "at each", but shows nothing of the others
        return "shown to be false"
    return "shown" if epochs.better == epochs.number else "not shown"
