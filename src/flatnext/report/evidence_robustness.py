"""Figures of the accuracy on changed images: by the severity of corruptions, and by the budget of an attack."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes

from flatnext.report import figures as drawing
from flatnext.report.blocks import Block, Figure, Panel
from flatnext.report.evidence_figures import seeds_of
from flatnext.report.numbers import listing
from flatnext.study import measures
from flatnext.study.rows import Row, rows
from flatnext.study.table import Group, Study

SOURCES = {"generated": "Corruptions, generated", "published": "CIFAR-10-C, as published"}

DRAWN = "pgd"
"""FGSM is weaker, and AutoAttack is run at one budget; the table has both."""

NORMS = {"linf": "PGD, maximum norm", "l2": "PGD, Euclidean norm"}

FEWEST = 2
"""Points that make a line."""


def figures(study: Study) -> list[Block]:
    """Return a figure for corruptions and one for attacks, of what was measured with the same settings in all runs."""
    severities = [row for row in rows(study, measures.by_severity) if not row.problem()]
    corrupted = [
        _panel(study, f"corruptions-{source}", title, "severity (0: no corruption)", found)
        for source, title in SOURCES.items()
        if _drawable(found := [row for row in severities if row.measure.kind == f"severity.{source}"])
    ]
    under_attack = [row for row in rows(study, measures.attacks) if not row.problem()]
    clean = [row for row in under_attack if row.measure.kind == "clean"]
    attacked = [
        _panel(study, f"attack-{norm}", title, "budget in 1/255 (0: no attack)", [*clean[:1], *found])
        for norm, title in NORMS.items()
        if _drawable(found := [row for row in under_attack if row.measure.kind == f"attack.{DRAWN}.{norm}"])
    ]
    return [
        *_figure(study, "corruptions", "Accuracy on corrupted test images, mean over the corruptions", corrupted),
        *_figure(study, "attacks", "Accuracy under attack", attacked),
    ]


def _drawable(found: Sequence[Row]) -> bool:
    return sum(any(row.values) for row in found) >= FEWEST


def _figure(study: Study, part: str, what: str, panels: Sequence[Panel]) -> list[Block]:
    if not panels:
        return []
    found = rows(study, measures.attacks if part == "attacks" else measures.by_severity)
    images = listing(f"{count:,}" for count in sorted({count for row in found for count in row.counts}))
    seeds = seeds_of(study, lambda run: run.evidence is not None and getattr(run.evidence, part) is not None)
    bands = "the bands from the smallest to the largest"
    return [Figure(f"{what}, {images} images a seed: mean over seeds ({seeds}), {bands}", tuple(panels))]


def accuracy_by(found: Sequence[Row], group: int) -> drawing.Curve | None:
    """Return where a group was measured, and mean, smallest and largest accuracy over seeds, in per cent."""
    points = sorted((row.measure.at or 0.0, list(row.values[group].values())) for row in found if row.values[group])
    if not points:
        return None
    reduced = (np.array([100 * reduce(values) for _, values in points]) for reduce in (np.mean, np.min, np.max))
    return (np.array([at for at, _ in points]), *reduced)  # type: ignore[return-value]


def _panel(study: Study, name: str, title: str, along: str, found: Sequence[Row]) -> Panel:
    lines = [(group, line) for number, group in enumerate(study.groups) if (line := accuracy_by(found, number))]
    alt = f"{title}: accuracy by {along.partition(' (')[0]}, for {listing(group.label for group, _ in lines)}"
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
