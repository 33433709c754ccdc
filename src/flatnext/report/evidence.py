"""The report's part on what was measured after training: each claim made of AMP, answered, with the figures behind."""

from __future__ import annotations

from flatnext.report import evidence_figures, evidence_tables
from flatnext.report.blocks import Block, Code, Section, Text
from flatnext.report.evidence_claims import behind, claims
from flatnext.report.evidence_gallery import galleries
from flatnext.report.numbers import listing
from flatnext.study.claims import answers, can_answer
from flatnext.study.evidence import PARTS
from flatnext.study.table import Study

MEASURED = tuple(part for part in PARTS if part != "test_sets")  # other test sets are there only for who has some


def evidence(study: Study) -> Section:
    """Return the section: claims and verdicts, then figures, then tables that are folded away."""
    answered = answers(study)
    blocks: list[Block] = []
    if answered:
        blocks.append(claims(study, answered))
        blocks.append(
            Text(
                "The verdicts are those of the paired t-test over seeds, corrected for the measures that answer one "
                "claim; How to read this says which they are."
            )
        )
    blocks += _missing(study)
    if any(run.evidence for run in study.runs):
        blocks += evidence_figures.figures(study)
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
    return "What AMP changed" if names & {"amp", "momentum-amp"} else "What the methods changed"


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


def how_to_read(study: Study) -> tuple[str, ...]:
    """Return what to know in reading the section."""
    texts = []
    if can_answer(study):
        texts.append(
            "Claims: a claim is shown if the paired t-test shows a difference in its direction for at least one of its "
            "measures and in the other direction for none; the opposite is shown the other way round; measures that "
            "disagree show neither. p is corrected by Holm's procedure for the measures and recipes that answer one "
            "claim (test accuracy: as under Comparison), not for the number of claims. Of a measure that was taken at "
            "several radii the middle one counts, of several attacks with one budget the one that leaves the least "
            "accuracy over all recipes. Higher at each epoch is shown if the test shows it at every epoch by itself; "
            "the opposite is shown if it shows the contrary at some epoch, corrected for the number of epochs. Not "
            "shown does not mean that there is no difference: with few seeds only large ones are."
        )
    if any(run.evidence for run in study.runs):
        texts.append(
            "Measures: sharpness is how far the loss on training images, not augmented, rises under the ascent step "
            "of AMP, SAM or ASAM, and a lower bound of the rise in its ball. A radius along random directions is "
            "relative to the size of each filter. AMP's and SAM's sharpness and the Hessian depend on the scale of "
            "the weights, which batch norm makes arbitrary; ASAM's and the random directions do not. ECE and its "
            "adaptive form, with bins of equal mass, compare confidence and accuracy; NLL and the Brier score also "
            "reward accuracy. Accuracy under attack is an upper bound: a stronger attack may leave less. The "
            "intervals and p in the folded tables are not corrected: they describe, and some of many miss zero by "
            "chance."
        )
    return tuple(texts)
