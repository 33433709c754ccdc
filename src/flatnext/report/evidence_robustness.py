"""Figures of the accuracy on changed images: by the severity of corruptions, and by the budget of an attack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from flatnext.report import figures as drawing
from flatnext.report.blocks import Block, Figure, Panel, Text
from flatnext.report.evidence_figures import seeds_of
from flatnext.report.numbers import listing
from flatnext.study import measures
from flatnext.study.rows import Row, rows
from flatnext.study.table import Group, Study

CORRUPTED = {
    "severity.generated": "Corruptions, generated",
    "severity.published": "CIFAR-10-C, as published",
}

ATTACKED = {
    "attack.pgd.linf": "PGD, maximum norm",
    "attack.pgd.l2": "PGD, Euclidean norm",
}
"""FGSM is weaker, and AutoAttack is run at one budget; the table has both."""

FEWEST = 3
"""Points that make a line, that of the images as they are among them."""


def figures(study: Study) -> list[Block]:
    """Return a figure for corruptions and one for attacks, or say that they were measured with different settings."""
    severities, attacks = rows(study, measures.by_severity), rows(study, measures.attacks)
    clean = _of_kind(attacks, "clean")[:1]
    corrupted = {title: _of_kind(severities, kind) for kind, title in CORRUPTED.items()}
    attacked = {title: [*clean, *_of_kind(attacks, kind)] for kind, title in ATTACKED.items()}
    what = "Accuracy on corrupted test images, mean over the corruptions"
    return [
        *_figure(study, "corruptions", what, corrupted, "severity"),
        *_figure(study, "attacks", "Accuracy under attack", attacked, "budget in 1/255"),
    ]


def _of_kind(found: Sequence[Row], kind: str) -> list[Row]:
    return [row for row in found if row.measure.kind == kind]


def _figure(study: Study, part: str, what: str, panels: Mapping[str, Sequence[Row]], along: str) -> list[Block]:
    """Return the figure of a part, with a panel for each title that has a line, or why it is not drawn."""
    alike = {title: [row for row in found if not row.problem()] for title, found in panels.items()}
    drawn = {title: found for title, found in alike.items() if sum(any(row.values) for row in found) >= FEWEST}
    if not drawn:
        differ = any(row.problem() for found in panels.values() for row in found)
        return [Text(f"{what} is not drawn: it was measured with different settings.")] if differ else []
    shown = [row for found in drawn.values() for row in found]
    images = listing(f"{count:,}" for count in sorted({count for row in shown for count in row.images()}))
    seeds = seeds_of(study, lambda run: run.evidence is not None and getattr(run.evidence, part) is not None)
    caption = f"{what}, {images} images a seed: mean over seeds ({seeds}), the bands from the smallest to the largest"
    if any(not row.measure.at for row in shown):
        caption += "; at 0 the images as they are"
    drawings = (_panel(study, f"{part}-{n}", title, along, found) for n, (title, found) in enumerate(drawn.items()))
    return [Figure(caption, tuple(drawings))]


def accuracy_by(found: Sequence[Row], group: int) -> drawing.Curve | None:
    """Return where a group was measured, and mean, smallest and largest accuracy over seeds, in per cent."""
    points = sorted((row.measure.at or 0.0, list(row.values[group].values())) for row in found if row.values[group])
    if not points:
        return None
    reduced = (np.array([100 * reduce(values) for _, values in points]) for reduce in (np.mean, np.min, np.max))
    return (np.array([at for at, _ in points]), *reduced)  # type: ignore[return-value]


def _panel(study: Study, name: str, title: str, along: str, found: Sequence[Row]) -> Panel:
    lines = [(group, line) for number, group in enumerate(study.groups) if (line := accuracy_by(found, number))]
    alt = f"{title}: accuracy by {along}, for {listing(group.label for group, _ in lines)}"
    return drawing.panel(name, alt, f"{title}: accuracy (%)", _draw(study, lines, along))


def _draw(study: Study, lines: Sequence[tuple[Group, drawing.Curve]], along: str) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for group, line in lines:
            color, several = drawing.color_of(study, group), len(group.runs) > 1
            drawing.draw_band(axes, line, color=color, band=several, label=group.label)
        axes.set_ylim(0, 100)
        axes.set_xlabel(along)
        axes.legend(loc="best")

    return draw
