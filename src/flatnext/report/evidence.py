"""The report's part on what was measured after training: each claim made of AMP, answered, with the figures behind."""

from __future__ import annotations

from flatnext.report import evidence_figures, evidence_robustness, evidence_tables
from flatnext.report.blocks import Block, Code, Section, Text
from flatnext.report.evidence_claims import behind, claims
from flatnext.report.evidence_gallery import galleries
from flatnext.report.evidence_words import explained
from flatnext.report.numbers import listing
from flatnext.runs.evidence import PARTS
from flatnext.study.claims import answers, can_answer
from flatnext.study.table import Study

MEASURED = tuple(part for part in PARTS if part != "test_sets")  # other test sets are there only for who has some


def evidence(study: Study) -> Section:
    """Return the section: claims and verdicts, then figures, then tables that are folded away."""
    answered = answers(study)
    blocks: list[Block] = []
    if answered:
        blocks.append(claims(study, answered))
        blocks += explained(answered)
    blocks += _missing(study)
    if any(run.evidence for run in study.runs):
        blocks += evidence_figures.figures(study)
        blocks += evidence_robustness.figures(study)
        if answered:
            blocks += behind(answered)
        blocks += evidence_tables.tables(study)
        blocks += galleries(study)
    return Section("evidence", title(study), tuple(blocks))


def title(study: Study) -> str:
    """Return the section's title: it is about AMP only where a recipe with AMP is compared with plain SGD."""
    if not can_answer(study):
        return "Evidence"
    names = {group.config.method.name for group in study.groups}
    return "What AMP changed" if any("amp" in name for name in names) else "What the methods changed"


def _missing(study: Study) -> list[Block]:
    """Name what was not measured, with the command that does it."""
    lacking = {
        part: [run.name for run in study.runs if not (run.evidence and getattr(run.evidence, part))]
        for part in MEASURED
    }
    lacking = {part: names for part, names in lacking.items() if names}
    stale = [run.name for run in study.runs if run.stale_evidence]
    blocks: list[Block] = []
    if stale:
        blocks.append(Text(f"Left out, since its weights have changed since it was measured: {listing(stale)}."))
    if not lacking:
        return blocks
    everything = set(lacking) == set(MEASURED) and all(len(names) == len(study.runs) for names in lacking.values())
    if everything:
        text = "What the weights are like was not measured on any run."
    else:
        by_names: dict[tuple[str, ...], list[str]] = {}
        for part, names in lacking.items():
            by_names.setdefault(tuple(names), []).append(part)
        phrases = (f"{listing(parts)} {_of(names, len(study.runs))}" for names, parts in by_names.items())
        text = f"Not measured: {'; '.join(phrases)}."
    command = f"flatnext evaluate STUDY --parts {' '.join(lacking)}"
    return [*blocks, Text(f"{text} This does it, STUDY being the study's folder or a run's:"), Code((command,))]


def _of(names: tuple[str, ...], runs: int) -> str:
    return "on any run" if len(names) == runs else f"on {listing(names)}"
