"""The report's part on calibration: confidence against accuracy, and the calibration errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from flatnext.report.blocks import Block, Figure, Panel, Text
from flatnext.report.drawing import color_of, panel
from flatnext.report.svg import PAPER, QUIET
from flatnext.report.tables import folded, quantity_table
from flatnext.runs.evidence import Calibration, Reliability
from flatnext.runs.records import RunRecord
from flatnext.study.groups import Group
from flatnext.study.study import Study
from flatnext.words import listing

FITTED = 0.0101, 99.0
"""A temperature outside is an end of the range that the fit looks in, 0.01 to 100, and no fit."""

MEASURES = ("ece*", "adaptive_ece*", "nll*", "brier*", "temperature")

Points = tuple[np.ndarray, np.ndarray, np.ndarray]


def figures(study: Study) -> list[Block]:
    """Return confidence against accuracy of each recipe."""
    panels = [_panel(study, number, group) for number, group in enumerate(study.groups)]
    if not any(panels):
        return []
    images = sorted({c.count for run in study.runs if (c := _calibration(run))})
    caption = (
        f"Confidence and accuracy in bins of equal width, {listing(f'{count:,}' for count in images)} test images a "
        "seed, all seeds together: on the dashed line confidence is earned, below it is too high; a larger dot holds "
        "more images"
    )
    return [Figure(caption, tuple(filter(None, panels)))]


def tables(study: Study) -> list[Block]:
    """Return the table, folded away, with notes on the temperature."""
    blocks = quantity_table(study, "Calibration", "measure", study.select(*MEASURES))
    return folded("Calibration", [*blocks, *_scaling(study)] if blocks else [])


def pooled(diagrams: Sequence[Reliability]) -> Points:
    """Return confidence, accuracy and share of images of the bins that hold any, over all seeds."""
    counts = np.array([diagram.counts for diagram in diagrams], dtype=float)

    def mean(field: str) -> np.ndarray:
        values = np.array([[value or 0.0 for value in getattr(diagram, field)] for diagram in diagrams])
        return (counts * values).sum(0) / np.maximum(counts.sum(0), 1)

    filled = counts.sum(0) > 0
    return mean("confidence")[filled], mean("accuracy")[filled], (counts.sum(0) / counts.sum())[filled]


def _calibration(run: RunRecord) -> Calibration | None:
    return run.evidence.calibration.result if run.evidence and run.evidence.calibration else None


def _panel(study: Study, number: int, group: Group) -> Panel | None:
    results = [c for run in group.runs if (c := _calibration(run))]
    diagrams = [result.reliability for result in results]
    scaled = [result.scaled.reliability for result in results if result.scaled]
    if len({diagram.edges for diagram in diagrams}) != 1:
        return None

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.9, linestyle=(0, (4, 2)))
        color = color_of(study, group)
        if len({diagram.edges for diagram in scaled}) == 1:
            _draw(axes, pooled(scaled), "after temperature scaling", facecolor=PAPER, edgecolor=QUIET)
        _draw(axes, pooled(diagrams), "as trained", facecolor=color, edgecolor=color)
        axes.set_xlim(0, 1.03)
        axes.set_ylim(0, 1.03)
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        axes.legend(loc="upper left")

    alt = f"Accuracy against confidence of {group.label}, before and after temperature scaling"
    return panel(f"reliability-{number}", alt, group.label, draw, size=(4.0, 3.4))


def _draw(axes: Axes, points: Points, label: str, *, facecolor: str, edgecolor: str) -> None:
    confidence, accuracy, share = points
    style: dict[str, Any] = {"facecolor": facecolor, "edgecolor": edgecolor, "linewidth": 1}
    axes.plot(confidence, accuracy, color=edgecolor, linewidth=1.2)
    axes.scatter(confidence, accuracy, s=8 + 80 * np.sqrt(share), zorder=3, **style)
    axes.scatter([], [], s=25, label=label, **style)


def _scaling(study: Study) -> list[Block]:
    scaled = [(run.name, c.scaled) for run in study.runs if (c := _calibration(run)) and c.scaled]
    if not scaled:
        return [Text("Without validation images that are new to the network there is no temperature to fit.")]
    images = listing(f"{count:,}" for count in sorted({result.validation_count for _, result in scaled}))
    blocks: list[Block] = [
        Text(f"The temperature has the lowest NLL on {images} validation images. Above 1 the network is too confident.")
    ]
    low, high = FITTED
    if unfit := [name for name, result in scaled if not low < result.temperature < high]:
        text = "The validation images do not determine the temperature: the figures after scaling mean nothing"
        blocks.append(Text(f"{text} ({listing(unfit)})."))
    return blocks
