"""The report's part on training: loss and accuracy by epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from flatnext.report.blocks import Block, Figure, Panel, Section, Text
from flatnext.report.drawing import Band, Line, band, color_of, panel, plot
from flatnext.study.groups import Group
from flatnext.study.study import Study
from flatnext.words import listing

QUANTITIES = {"loss": ("Loss", 1.0), "accuracy": ("Accuracy (%)", 100.0)}

HELD_OUT = {"test": "the test set", "validation": "the validation split"}


def curves(study: Study) -> Section:
    """Return the curves of all recipes together, then of each."""
    drawn = [group for group in study.groups if any(run.epochs for run in group.runs)]
    if not drawn:
        return Section("curves", "Curves", (Text("The runs hold no metrics, so that there are no curves to draw."),))
    blocks: list[Block] = [_figure(study, "curves-all", drawn)] if len(drawn) > 1 else []
    blocks += [_figure(study, f"curves-{study.groups.index(group)}", [group]) for group in drawn]
    if bare := [group.label for group in study.groups if group not in drawn]:
        blocks.append(Text(f"Not drawn, since its runs hold no metrics: {listing(bare)}."))
    return Section("curves", "Curves", tuple(blocks))


def curve(group: Group, field: str, scale: float = 1.0) -> Band | None:
    """Return the band of a field of `Epoch` over the epochs that have one; None where there is none."""
    values: dict[float, list[float]] = {}
    for run in group.runs:
        for epoch in run.epochs:
            if (value := getattr(epoch, field)) is not None:
                values.setdefault(epoch.epoch, []).append(scale * value)
    return band(values)


def _figure(study: Study, name: str, groups: Sequence[Group]) -> Figure:
    """Return loss and accuracy of recipes, in training and held out (Figures 3 and 4 of the baseline paper)."""
    split = next((split for split in HELD_OUT if all(curve(group, f"{split}_accuracy") for group in groups)), None)
    where = f"on {HELD_OUT[split]} (solid) and in training (dotted)" if split else "in training"
    labels = listing(group.label for group in groups)
    panels = tuple(_panel(study, f"{name}-{quantity}", groups, quantity, split, where) for quantity in QUANTITIES)
    return Figure(f"{labels}: loss and accuracy by epoch {where}, mean over seeds", panels)


def _panel(study: Study, name: str, groups: Sequence[Group], quantity: str, split: str | None, where: str) -> Panel:
    title, scale = QUANTITIES[quantity]
    lines = []
    for group in groups:
        color = color_of(study, group)
        if split and (held_out := curve(group, f"{split}_{quantity}", scale)):
            lines.append(Line(group.label, color, held_out))
        if training := curve(group, f"train_{quantity}", scale):
            lines.append(Line("" if split else group.label, color, training, dotted=True))
    alt = f"{title} by epoch of {listing(group.label for group in groups)}, {where}"
    return panel(name, alt, title, partial(_draw, study=study, lines=lines, quantity=quantity))


def _draw(axes: Axes, study: Study, lines: Sequence[Line], quantity: str) -> None:
    plot(axes, lines)
    _limit(axes, study, quantity)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if sum(bool(line.label) for line in lines) > 1:
        axes.legend(loc="upper right" if quantity == "loss" else "lower right")


def _limit(axes: Axes, study: Study, quantity: str) -> None:
    """Give the figures of all recipes the same scale."""
    scale = QUANTITIES[quantity][1]
    fields = [f"{split}_{quantity}" for split in ("train", *HELD_OUT)]
    bands = [b for group in study.groups for field in fields if (b := curve(group, field, scale)) is not None]
    low, high = min(float(b.low.min()) for b in bands), max(float(b.high.max()) for b in bands)
    if quantity == "loss":
        high = min(high, _ceiling(bands, len(study.runs[0].environment.classes)))
    margin = 0.04 * (high - low) or 0.05 * scale
    axes.set_ylim(max(0, low - margin), high + margin)
    last = max(int(b.at[-1]) for b in bands)
    axes.set_xlim(1 - 0.02 * last, last * 1.02)


def _ceiling(bands: Sequence[Band], classes: int) -> float:
    """Return where the scale of a loss ends: half above a guess, or above where a curve ends.

    Batch norm's running statistics can be far off in the first epochs, and a test loss of millions then would flatten
    all that follows.
    """
    return max(1.5 * math.log(classes), *(float(b.high[-1]) for b in bands))
