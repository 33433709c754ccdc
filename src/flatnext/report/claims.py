"""The report's part on the claims made of AMP: the verdicts, and the comparisons that they rest on."""

from __future__ import annotations

from collections.abc import Sequence

from flatnext.report.blocks import Block, Table, Text
from flatnext.report.numbers import mean_sd, probability
from flatnext.report.robustness import failed_checks
from flatnext.report.tables import by_images, difference, folded, mean, unit
from flatnext.study.claims import HEADLINES, PAPER, Answer
from flatnext.study.contrasts import same_but_for_method
from flatnext.study.epoch_comparison import EpochComparison
from flatnext.study.quantities import Quantity
from flatnext.study.statistics import FEWEST_SEEDS, Comparison
from flatnext.study.study import Study
from flatnext.words import DASH, counted, listing

FEW = 3
"""Up to this many comparisons of a claim are shown beside its verdict."""

SAYS = {"for": "for it", "against": "against it", "open": "open"}


def claims(study: Study, answers: Sequence[Answer]) -> list[Block]:
    """Return the table of claims, what it does not say, and the comparisons behind it, folded away."""
    rows = tuple(
        (_claim(answer, answers), _measured(study, answer), answer.verdict)
        for answer in answers
        if answer.verdict != "not measured" or answer.problem
    )
    caption = (
        f"Claims made of AMP, tested on {listing(dict.fromkeys(answer.contrast.group.label for answer in answers))}. "
        f"A name in brackets is who makes the claim; without one it is {PAPER}. Measured: the recipe against its "
        "baseline, mean ± standard deviation over seeds"
    )
    table = Table(caption, ("claim", "measured", "verdict"), rows, numeric=False, stacked=True, bold_last=True)
    notes = [
        "The verdicts are those of the paired t-test over seeds, from three on, corrected for the comparisons that "
        "answer one claim. All seeds are measured on the same images: the test sees chance between seeds, not between "
        "images. Each claim is a question of its own: nothing is corrected for their number."
    ]
    notes += [
        f"{answer.contrast.group.label} is less accurate here. A network that has learned less also overfits less, and "
        "is often flatter and less confident: that does not speak for it."
        for answer in answers
        if answer.claim in HEADLINES and answer.verdict == "the opposite is shown"
    ]
    return [table, *map(Text, notes), *_comparisons(answers)]


def _claim(answer: Answer, answers: Sequence[Answer]) -> str:
    text = f"{_who(answer, answers)}{answer.claim.text}"
    if answer.claim.source != PAPER:
        text += f" ({answer.claim.source})"
    pure = same_but_for_method(answer.contrast.group, answer.contrast.baseline)
    return text if pure else f"{text} (the recipes differ in more than the method)"


def _who(answer: Answer, answers: Sequence[Answer]) -> str:
    """Return `amp: `, or `amp-small against sgd-small: ` where not all have the same baseline; nothing for one."""
    pairs = {other.contrast.recipes for other in answers}
    if len(pairs) == 1:
        return ""
    recipe, baseline = answer.contrast.recipes
    return f"{recipe}: " if len({b for _, b in pairs}) == 1 else f"{recipe} against {baseline}: "


def _measured(study: Study, answer: Answer) -> str:
    """Return the figures that a verdict rests on, in short."""
    if answer.epochs is not None:
        return _epochs(study, answer.epochs)
    texts = [_against(answer, tested.quantity) for tested in answer.tested]
    if len(texts) > FEW:
        counts = (f"{answer.count(outcome)} {says}" for outcome, says in SAYS.items())
        texts = [f"{len(texts)} comparisons: {', '.join(counts)}"]
    if answer.verdict == "by construction":
        ours, theirs = (group.config.method.passes for group in (answer.contrast.group, answer.contrast.baseline))
        texts.append(f"{ours:g} passes a step against {theirs:g}")
    if answer.problem:
        texts.append(f"not compared: {answer.problem}" if answer.tested else answer.problem)
    if answer.claim.measurement == "attacks" and (failed := failed_checks(study)):
        texts.append(f"checks of the attacks failed ({failed}): see Attacks")
    return "; ".join(texts) or DASH


def _against(answer: Answer, quantity: Quantity) -> str:
    ours, theirs = (f"{mean(quantity, r)}{by_images(quantity, r)}" for r in answer.contrast.recipes)
    return f"{quantity.label}{unit(quantity)}: {ours} against {theirs}"


def _epochs(study: Study, epochs: EpochComparison) -> str:
    where = {"test": "test set", "validation": "validation split"}[epochs.split]
    if study.uneven:
        where += f" ({'' if epochs.balanced else 'not '}balanced over classes)"
    share = f"higher at {mean_sd(epochs.share, 100, 1)} % of {counted(epochs.number, 'epoch')} on the {where}"
    if epochs.share.n < FEWEST_SEEDS:
        return share
    return f"{share}; shown to be higher at {epochs.better}, lower at {epochs.worse}"


def _comparisons(answers: Sequence[Answer]) -> list[Block]:
    rows = []
    for answer in answers:
        claim = f"{_who(answer, answers)}{answer.claim.text}"
        rows += [_row(answer, claim, t.quantity, t.comparison, SAYS[t.outcome]) for t in answer.tested]
        rows += [_row(answer, claim, quantity, comparison, "not tested") for quantity, comparison in answer.beside]
    header = ("claim", "difference", "interval", "images", "n", "p", "p, Holm", "says")
    caption = (
        "The comparisons behind the verdicts: paired differences, p of the t-test, and p and interval after Holm's "
        "correction; "
        "what is not tested is shown beside the claim and decides nothing"
    )
    return folded("The comparisons behind the verdicts", [Table(caption, header, tuple(rows))] if rows else [])


def _row(answer: Answer, claim: str, quantity: Quantity, comparison: Comparison, says: str) -> tuple[str, ...]:
    tested = says in SAYS.values()
    return (
        f"{claim}: {quantity.label}{unit(quantity)}",
        *difference(quantity, comparison),
        " or ".join(f"{count:,}" for count in quantity.images(*answer.contrast.recipes)) or DASH,
        str(comparison.n),
        probability(comparison.p),
        probability(comparison.p_adjusted) if tested else DASH,
        says,
    )
