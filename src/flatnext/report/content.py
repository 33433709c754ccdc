"""What the report says, once for both its forms."""

from __future__ import annotations

from flatnext.report import protocol, results
from flatnext.report.blocks import Key, Report, Section
from flatnext.report.classes import classes
from flatnext.report.evidence import evidence
from flatnext.report.evidence_words import how_to_read
from flatnext.report.numbers import listing, mean_sd
from flatnext.study.statistics import estimate
from flatnext.study.table import Study


def content(study: Study) -> Report:
    """Return the report of a study."""
    left_out = (protocol.left_out(study),) if study.left_out else ()
    if not study.groups:
        return Report("FlatNeXt study", study.verdict, (), (), left_out)
    title = f"{listing(group.label for group in study.groups)} on {protocol.dataset(study)}"
    return Report(
        title,
        study.verdict,
        protocol.remarks(study),
        _keys(study),
        (*_sections(study), *left_out, protocol.reading(study, how_to_read(study))),
    )


def _sections(study: Study) -> tuple[Section, ...]:
    return (
        *((results.comparison(study),) if study.contrasts else ()),
        evidence(study),
        results.accuracy(study),
        results.curves(study),
        classes(study),
        results.cost(study),
        results.mistakes(study),
        protocol.protocol(study),
    )


def _keys(study: Study) -> tuple[Key, ...]:
    keys = []
    for number, group in enumerate(study.groups):
        found = estimate(group.accuracy().values())
        seeds = f"{found.n} seed{'s' if found.n > 1 else ''}"
        keys.append(Key(group.label, f"{mean_sd(found, 100)} %", f"test accuracy, last epoch, {seeds}", number))
    return tuple(keys)
