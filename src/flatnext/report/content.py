"""What the report says, once for all its forms."""

from __future__ import annotations

from shlex import quote

from flatnext.report import calibration, flatness, robustness
from flatnext.report.accuracy import accuracy, accuracy_name, cost
from flatnext.report.blocks import Block, Code, Key, Report, Section, Text
from flatnext.report.claims import claims
from flatnext.report.classes import classes
from flatnext.report.curves import curves
from flatnext.report.mistakes import mistakes
from flatnext.report.notes import notes
from flatnext.report.protocol import dataset, left_out, protocol, remarks
from flatnext.report.tables import mean
from flatnext.runs.evidence import MEASUREMENTS
from flatnext.study.advice import advice, comparisons
from flatnext.study.claims import answers
from flatnext.study.failures import warnings
from flatnext.study.study import Study
from flatnext.words import counted, listing


def content(study: Study) -> Report:
    """Return the report of a study."""
    missing_runs = (left_out(study),) if study.left_out else ()
    if not study.groups:
        return Report("FlatNeXt study", advice(study), warnings(study), (), (), (), missing_runs)
    sections = (
        accuracy(study),
        evidence(study),
        curves(study),
        classes(study),
        mistakes(study),
        cost(study),
        protocol(study),
        *missing_runs,
        notes(study),
    )
    title = f"{listing(study.labels)} on {dataset(study)}"
    return Report(title, advice(study), warnings(study), comparisons(study), remarks(study), _keys(study), sections)


def evidence(study: Study) -> Section:
    """Return claims and verdicts, then figures, then tables that are folded away."""
    answered = answers(study)
    blocks = [*(claims(study, answered) if answered else ()), *_missing(study)]
    measured = (flatness, calibration, robustness)
    for part in measured:
        blocks += part.figures(study)
    for part in measured:
        blocks += part.tables(study)
    return Section("evidence", "Claims and evidence" if answered else "Evidence", tuple(blocks))


def _keys(study: Study) -> tuple[Key, ...]:
    return tuple(
        Key(
            recipe,
            f"{mean(study.headline, recipe)} %",
            f"{accuracy_name(study)}, last epoch, {counted(len(study.headline.values(recipe)), 'seed')}",
            number,
        )
        for number, recipe in enumerate(study.labels)
    )


def _missing(study: Study) -> list[Block]:
    """Name what was not measured, with the command that does it."""
    lacking = {
        name: [run.name for run in study.runs if getattr(run.evidence, name, None) is None] for name in MEASUREMENTS
    }
    lacking = {name: runs for name, runs in lacking.items() if runs}
    blocks: list[Block] = []
    if stale := [run.name for run in study.runs if run.stale_evidence]:
        blocks.append(Text(f"Left out, since its weights have changed since it was measured: {listing(stale)}."))
    if not lacking:
        return blocks
    by_runs: dict[tuple[str, ...], list[str]] = {}
    for name, runs in lacking.items():
        by_runs.setdefault(tuple(runs), []).append(name)
    phrases = (
        f"{listing(names)} {'on any run' if len(runs) == len(study.runs) else f'on {listing(runs)}'}"
        for runs, names in by_runs.items()
    )
    commands = (f"flatnext evidence {quote(str(path))} --measurements {' '.join(lacking)}" for path in study.paths)
    return [*blocks, Text(f"Not measured: {'; '.join(phrases)}."), Code(tuple(commands))]
