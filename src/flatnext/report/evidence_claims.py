"""The table of claims, and the table of the comparisons behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flatnext.report.blocks import Block, Details, Table
from flatnext.report.evidence_tables import difference, interval, mean, unit
from flatnext.report.numbers import DASH, decimal, listing, mean_sd, probability
from flatnext.study.claims import REPORT, Answer, Tested, same_but_for_method
from flatnext.study.epochs import Epochs
from flatnext.study.rows import Row, places
from flatnext.study.statistics import Comparison, p_text
from flatnext.study.table import Study

SPREAD = 3
"""Up to this many measures are given with their standard deviations, more without."""

LISTED = 8
"""Up to this many measures are given with their means."""


def claims(study: Study, answers: Sequence[Answer]) -> Table:
    """Return claim, what was measured, and the verdict that follows."""
    rows = tuple((_claim(answer, answers), measured(study, answer), verdict(answer)) for answer in answers)
    baselines = list(dict.fromkeys(answer.contrast.baseline.label for answer in answers))
    labels = listing(dict.fromkeys(answer.contrast.group.label for answer in answers))
    caption = (
        f"Claims made of AMP, tested on {labels}. A name in brackets is who claims it; without one it is {REPORT}. "
        "Measured: mean ± standard deviation over seeds, against "
        f"{baselines[0] if len(baselines) == 1 else 'the recipe that the claim names'}, and the difference."
    )
    return Table(caption, ("claim", "measured", "verdict"), rows, numeric=False, stacked=True)


def _claim(answer: Answer, answers: Sequence[Answer]) -> str:
    text = f"{_who(answer, answers)}{answer.claim.text}"
    if answer.claim.source != REPORT:
        text += f" ({answer.claim.source})"
    pure = same_but_for_method(answer.contrast.group, answer.contrast.baseline)
    return text if pure else f"{text} (the recipes differ in more than the method)"


def _who(answer: Answer, answers: Sequence[Answer]) -> str:
    """Return `amp: `, or `amp-small against sgd-small: ` where not all have the same baseline; nothing for one."""
    contrasts = [each.contrast for each in answers]
    if len({contrast.group.label for contrast in contrasts}) == 1:
        return ""
    one = len({contrast.baseline.label for contrast in contrasts}) == 1
    own = answer.contrast
    return f"{own.group.label}: " if one else f"{own.group.label} against {own.baseline.label}: "


def verdict(answer: Answer) -> str:
    """Return the verdict in words, with the command where something was not measured."""
    if answer.verdict == "not measured" and answer.claim.part:
        return f"not measured (flatnext evaluate STUDY --parts {answer.claim.part})"
    return answer.verdict


def measured(study: Study, answer: Answer) -> str:
    """Return the figures that a verdict rests on, in short."""
    if answer.epochs is not None:
        return _epochs(answer.epochs)
    if not answer.tested:
        return answer.problem or DASH
    single = len(answer.tested) == 1
    text = _single(study, answer, answer.tested[0]) if single else _several(study, answer)
    if answer.problem:
        text += f"; not compared: {answer.problem}"
    if answer.beside:
        text += f". Beside it, deciding nothing: {'; '.join(_beside(row, found) for row, found in answer.beside)}"
    failed = _failed_checks(study) if answer.claim.part == "attacks" else 0
    return f"{text}. Checks of the attacks failed ({failed}): see Attacks" if failed else text


def _beside(row: Row, found: Comparison) -> str:
    text = f"{row.measure.name} {difference(row, found)}{_points(row)}"
    if found.p is None:
        return f"{text} ({'one seed' if found.n == 1 else f'the same in all {found.n} seeds'})"
    return f"{text} (95 % interval {interval(row, found)}, p {p_text(found.p)}, not corrected)"


def _points(row: Row) -> str:
    return " points" if row.measure.unit == "%" else _spaced(row)


def _named(study: Study, answer: Answer, row: Row) -> str:
    """Return a measure's name with the number of images."""
    counts = row.images(*places(study, answer.contrast))
    if not counts:
        return row.measure.name
    images = _images(counts)
    if row.measure.kind == "gap":
        images = f"{images.replace('image', 'training image')}, its test loss on all test images"
    return f"{row.measure.name} ({images})"


def _images(counts: Iterable[int]) -> str:
    found = sorted(set(counts))
    return f"{' or '.join(f'{count:,}' for count in found)} {'image' if found == [1] else 'images'}"


def _single(study: Study, answer: Answer, tested: Tested) -> str:
    row, found = tested.row, tested.comparison
    ours, theirs = _means(study, answer, row)
    text = f"{_named(study, answer, row)} {ours} against {theirs}{_spaced(row)}: {difference(row, found)}"
    if answer.claim.expects and (ratio := _ratio(study, answer, row)):
        text += f", {ratio} times as long"
    return f"{text} {_chance(row, tested)}"


def _chance(row: Row, tested: Tested) -> str:
    found = tested.comparison
    if found.n == 1:
        return "(one seed)"
    if found.p_adjusted is None:
        return f"(the same in all {found.n} seeds)"
    corrected = " after Holm's correction" if found.family > 1 else ""
    return f"(95 % interval {interval(row, found)}; n = {found.n}, p {p_text(found.p_adjusted)}{corrected})"


def _several(study: Study, answer: Answer) -> str:
    """Return how many measures speak for the claim, and their means unless they are many."""
    seeds = sorted({tested.comparison.n for tested in answer.tested})
    n = f"n = {' or '.join(map(str, seeds))}"
    number = len(answer.tested)
    if max(seeds) == 1:
        counts = f"{number} measures, one seed"
    else:
        words = (f"{answer.count('for')} for it", f"{answer.count('against')} against", f"{answer.count('open')} open")
        counts = f"{number} measures: {', '.join(words)} ({n})"
    if number > LISTED:
        pair = places(study, answer.contrast)
        return f"{counts}, on {_images(count for tested in answer.tested for count in tested.row.images(*pair))}"
    values = []
    for row in (tested.row for tested in answer.tested):
        ours, theirs = (text if number <= SPREAD else text.split(" ")[0] for text in _means(study, answer, row))
        values.append(f"{_named(study, answer, row)}: {ours} against {theirs}{_spaced(row)}")
    return f"{counts}. {'; '.join(values)}"


def _means(study: Study, answer: Answer, row: Row) -> tuple[str, str]:
    contrast = answer.contrast
    ours, theirs = (mean(row, study.groups.index(group)) for group in (contrast.group, contrast.baseline))
    return ours, theirs


def _spaced(row: Row) -> str:
    return f" {row.measure.unit}" if row.measure.unit else ""


def _ratio(study: Study, answer: Answer, row: Row) -> str:
    ours, theirs = (row.estimate(study.groups.index(g)) for g in (answer.contrast.group, answer.contrast.baseline))
    return decimal(ours.mean / theirs.mean, 2) if ours and theirs and theirs.mean else ""


def _epochs(found: Epochs) -> str:
    epochs = "epoch" if found.number == 1 else "epochs"
    where = f"of {found.number} {epochs} on the {found.split} {'set' if found.split == 'test' else 'split'}"
    share = f"higher at {mean_sd(found.share, 100, 1)} % {where}"
    if found.share.n == 1:
        return f"{share} (one seed)"
    return (
        f"{share} (n = {found.share.n}); shown to be higher at {found.better} (each tested by itself), lower at "
        f"{found.worse} (corrected for {found.number} {epochs})"
    )


def _failed_checks(study: Study) -> int:
    found = [run.evidence.attacks for run in study.runs if run.evidence and run.evidence.attacks]
    return sum(not check.passed for part in found for check in part.result.checks)


def behind(answers: Sequence[Answer]) -> list[Block]:
    """Return the comparisons that the verdicts rest on, folded away."""
    rows = tuple(
        _behind(tested, f"{_who(answer, answers)}{answer.claim.text}") for answer in answers for tested in answer.tested
    )
    header = ("claim", "difference", "95 % interval", "n", "p", "p, Holm", "says")
    caption = "The comparisons behind the verdicts: paired differences, p of the t-test, and p after Holm's correction"
    return [Details("The comparisons behind the verdicts", (Table(caption, header, rows),))] if rows else []


def _behind(tested: Tested, claim: str) -> tuple[str, ...]:
    row, found = tested.row, tested.comparison
    return (
        f"{claim}: {row.measure.name}{unit(row)}",
        difference(row, found),
        interval(row, found),
        str(found.n),
        probability(found.p),
        probability(found.p_adjusted),
        {"for": "for it", "against": "against it", "open": "open"}[tested.outcome],
    )
