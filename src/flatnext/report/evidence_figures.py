"""Figures of what was measured after training: the loss around the solution, and confidence against accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from flatnext.report import figures as drawing
from flatnext.report.blocks import Block, Figure, Panel, Text
from flatnext.report.numbers import listing
from flatnext.report.svg import INK, PAPER, QUIET, RIGHT
from flatnext.runs import evidence
from flatnext.runs.records import RunRecord
from flatnext.study.table import Group, Study

ALONG = {"random": "random directions", "gradient": "the gradient"}

UNITS = {"random": "radius, relative to the filters", "gradient": "distance in the weights (L2)"}

WIDE = 20.0
"""Where the largest loss is as many times the smallest, the scale is logarithmic."""

LEVELS = 9
"""Lines on a loss surface, about."""


def figures(study: Study) -> list[Block]:
    """Return the figures for what was measured, with what could not be drawn and why."""
    return [*_curves(study), *_surfaces(study), *_reliability(study)]


def flat(run: RunRecord) -> evidence.Flatness | None:
    """Return what was measured of the run's flatness."""
    part = run.evidence.flatness if run.evidence else None
    return part.result if part else None


def _curves(study: Study) -> list[Block]:
    panels, images, texts = [], set(), list[Block]()
    for along, name in ALONG.items():
        found = [curve for run in study.runs if (curve := _curve(run, along)) is not None]
        if len({(curve.radii, curve.count, len(curve.losses)) for curve in found}) > 1:
            texts.append(Text(f"Loss along {name} is not drawn: it was measured with different settings."))
        elif found:
            panels.append(_curve_panel(study, along))
            images.add(f"{found[0].count:,}")
    if not panels:
        return texts
    caption = (
        f"Loss on {listing(sorted(images))} {_images(study)} images around the solution: mean over seeds "
        f"({seeds_of(study, lambda run: flat(run) is not None)}), the bands from the smallest to the largest"
    )
    return [Figure(caption, tuple(panels)), *texts]


def _images(study: Study) -> str:
    """Return which images flatness was measured on."""
    splits = {found.split for run in study.runs if (found := flat(run)) is not None}
    return " or ".join({"train": "training"}.get(split, split) for split in sorted(splits))


def _curve(run: RunRecord, along: str) -> evidence.Curve | None:
    found = flat(run)
    return getattr(found, along) if found else None


def loss_by_radius(group: Group, along: str) -> drawing.Curve | None:
    """Return radii, with 0 among them, and mean, smallest and largest loss over seeds; not finite is NaN."""
    curves = [curve for run in group.runs if (curve := _curve(run, along)) is not None]
    if not curves:
        return None
    order = sorted([(0.0, -1), *((radius, i) for i, radius in enumerate(curves[0].radii) if radius)])
    rows = [[curve.centre if i < 0 else curve.mean[i] for _, i in order] for curve in curves]
    losses = np.array([[math.nan if loss is None else loss for loss in row] for row in rows])
    return (np.array([radius for radius, _ in order]), losses.mean(0), losses.min(0), losses.max(0))


def _curve_panel(study: Study, along: str) -> Panel:
    bands = [(group, band) for group in study.groups if (band := loss_by_radius(group, along)) is not None]

    def draw(axes: Axes) -> None:
        for group, line in bands:
            color, several = drawing.color_of(study, group), len(group.runs) > 1
            drawing.draw_band(axes, line, color=color, band=several, label=group.label)
        _scale(axes, [value for _, (_, *losses) in bands for loss in losses for value in loss])
        axes.set_xlabel(UNITS[along])
        axes.legend(loc="upper left")

    labels = ", ".join(group.label for group, _ in bands)
    alt = f"Loss against the distance from the solution along {ALONG[along]}, for {labels}"
    return drawing.panel(f"flat-{along}", alt, f"Loss along {ALONG[along]}", draw)


def _scale(axes: Axes, losses: Iterable[float]) -> None:
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite or min(finite) <= 0 or max(finite) < WIDE * min(finite):
        return
    axes.set_yscale("log")
    decades = math.log10(max(finite) / min(finite))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.5 else (1, 3) if decades < 3 else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", left=False)


def _surfaces(study: Study) -> list[Block]:
    found = [(number, group, *first) for number, group in enumerate(study.groups) if (first := _first_surface(group))]
    if not found:
        return []
    surfaces = [surface for *_, surface in found]
    if len({(surface.positions, surface.count) for surface in surfaces}) > 1:
        return [Text("The loss surfaces are not drawn: they were measured with different settings.")]
    lines = levels([loss for surface in surfaces for row in surface.losses for loss in row if loss is not None])
    panels = tuple(
        drawing.panel(
            f"surface-{number}",
            f"Loss of {group.label} on a plane through the solution, seed {seed}, as shades with contour lines",
            f"{group.label}, seed {seed}",
            partial(_draw_surface, surface=surface, lines=lines),
            size=(4.0, 3.7),
        )
        for number, group, seed, surface in found
    )
    caption = (
        f"Loss on {surfaces[0].count:,} {_images(study)} images over two random directions, relative to the filters, "
        "the solution in the middle: one seed of each recipe, the same shades and lines in all, stronger is higher"
    )
    return [Figure(caption, panels)]


def _first_surface(group: Group) -> tuple[int, evidence.Surface] | None:
    found = ((run.config.seed, flat(run)) for run in group.runs)
    return next(((seed, part.surface) for seed, part in found if part and part.surface), None)


def levels(losses: Sequence[float]) -> list[float]:
    """Return some `LEVELS` round numbers at most between smallest and largest loss, 1-2-5 where they span far."""
    low, high = (min(losses), max(losses)) if losses else (0.0, 0.0)
    if low >= high:
        return []
    if 0 < low * 4 < high:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            found = [step * 10.0**decade for decade in decades for step in steps if low < step * 10.0**decade < high]
            if len(found) <= LEVELS:
                break
        return found[:: math.ceil(len(found) / LEVELS)] if found else []
    return [float(level) for level in MaxNLocator(LEVELS - 2).tick_values(low, high) if low < level < high]


def _draw_surface(axes: Axes, surface: evidence.Surface, lines: Sequence[float]) -> None:
    losses = np.array([[math.nan if loss is None else loss for loss in row] for row in surface.losses])
    at = surface.positions
    if lines and np.isfinite(losses).any():
        logarithmic = lines[0] > 0 and float(np.nanmin(losses)) > 0  # between the points too, as the lines are
        heights, steps = (np.log(losses), np.log(lines)) if logarithmic else (losses, np.array(lines))
        low, high = float(np.nanmin(heights)), float(np.nanmax(heights))
        heights = np.ma.masked_invalid(heights)
        shades = [(*mpl.colors.to_rgb(RIGHT), alpha) for alpha in np.linspace(0.0, 0.62, len(lines) + 1)]
        edges = [min(low, steps[0]) - 1.0, *steps, max(high, steps[-1]) + 1.0]
        axes.contourf(at, at, heights, levels=edges, colors=shades, antialiased=False)
        if any(low < step < high for step in steps):
            drawn = axes.contour(at, at, heights, levels=steps, colors=INK, linewidths=0.6, linestyles="solid")
            texts = dict(zip(drawn.levels, map("{:g}".format, lines), strict=True))
            axes.clabel(drawn, levels=_labelled(drawn, at[-1] - at[0]), fmt=texts, fontsize=7)
    axes.plot([0], [0], marker="+", color=INK, markersize=7)
    axes.set_aspect("equal")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(visible=False)
    axes.set_xlabel("second direction")
    axes.set_ylabel("first direction")


def _labelled(drawn: Any, span: float) -> list[float]:
    """Return the levels whose lines are far enough apart for a number on each."""
    chosen, last = list[float](), 0.0
    for level, path in zip(drawn.levels, drawn.get_paths(), strict=True):
        height = path.get_extents().height if len(path.vertices) else 0.0
        if height >= last + 0.2 * span:
            chosen, last = [*chosen, level], height
    return chosen


def _reliability(study: Study) -> list[Block]:
    panels = tuple(
        panel for number, group in enumerate(study.groups) if (panel := _reliability_panel(study, number, group))
    )
    if not panels:
        return []
    parts = [run.evidence.calibration for run in study.runs if run.evidence and run.evidence.calibration]
    images = listing(sorted({f"{part.result.count:,}" for part in parts}))
    seeds = seeds_of(study, lambda run: run.evidence is not None and run.evidence.calibration is not None)
    caption = (
        f"Confidence and accuracy in bins of equal width, {images} test images a seed, all seeds together ({seeds}): "
        "on the dashed line confidence is earned, below it is too high; a larger dot holds more images"
    )
    return [Figure(caption, panels)]


Points = tuple[np.ndarray, np.ndarray, np.ndarray]


def pooled(found: Sequence[evidence.Reliability]) -> Points:
    """Return confidence, accuracy and share of images of the bins that hold any, over all seeds."""
    counts = np.array([each.counts for each in found], dtype=float)

    def mean(field: str) -> np.ndarray:
        values = np.array([[value or 0.0 for value in getattr(each, field)] for each in found])
        return (counts * values).sum(0) / np.maximum(counts.sum(0), 1)

    held = counts.sum(0) > 0
    return mean("confidence")[held], mean("accuracy")[held], (counts.sum(0) / counts.sum())[held]


def _reliability_panel(study: Study, number: int, group: Group) -> Panel | None:
    parts = [run.evidence.calibration for run in group.runs if run.evidence and run.evidence.calibration]
    if not parts or len({part.result.reliability.edges for part in parts}) > 1:
        return None
    plain = pooled([part.result.reliability for part in parts])
    scaled = [part.result.scaled.reliability for part in parts if part.result.scaled]
    after = pooled(scaled) if scaled and len({each.edges for each in scaled}) == 1 else None

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.9, linestyle=(0, (4, 2)))
        color = drawing.color_of(study, group)
        if after is not None:
            axes.plot(*after[:2], color=QUIET, linewidth=0.9)
            axes.scatter(*after[:2], s=_sizes(after), facecolor=PAPER, edgecolor=QUIET, linewidth=1, zorder=3)
            axes.scatter([], [], s=25, facecolor=PAPER, edgecolor=QUIET, linewidth=1, label="after temperature scaling")
        axes.plot(*plain[:2], color=color)
        axes.scatter(*plain[:2], s=_sizes(plain), color=color, zorder=4)
        axes.scatter([], [], s=25, color=color, label="as trained")
        axes.set_xlim(0, 1.03)
        axes.set_ylim(0, 1.03)
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        axes.legend(loc="upper left")

    alt = f"Accuracy against confidence of {group.label}, before and after temperature scaling"
    return drawing.panel(f"reliability-{number}", alt, group.label, draw, size=(4.0, 3.4))


def _sizes(points: Points) -> np.ndarray:
    return 8 + 80 * np.sqrt(points[2])


def seeds_of(study: Study, has: Callable[[RunRecord], bool]) -> str:
    """Return on how many seeds `has` holds: `n = 5`, or by recipe where they differ."""
    numbers = {group.label: sum(map(has, group.runs)) for group in study.groups}
    if len(set(numbers.values())) == 1:
        return f"n = {next(iter(numbers.values()))}"
    return listing(f"{label} n = {number}" for label, number in numbers.items())
