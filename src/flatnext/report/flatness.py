"""The report's part on flatness: the loss along directions and on a plane, and the tables of sharpness and Hessian."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from statistics import median

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from flatnext.report.blocks import Block, Figure, Panel, Text
from flatnext.report.drawing import Band, Line, band, color_of, panel, plot
from flatnext.report.numbers import decimals
from flatnext.report.svg import INK, RIGHT
from flatnext.report.tables import folded, quantity_table
from flatnext.runs.evidence import Curve, Flatness, Surface
from flatnext.runs.records import RunRecord
from flatnext.study.groups import Group
from flatnext.study.study import Study
from flatnext.words import decimal, listing

ALONG = {"random": "random directions", "gradient": "the gradient"}

UNITS = {"random": "radius, relative to the filters", "gradient": "distance in the weights (L2)"}

WIDE = 20.0
"""Where the largest loss is as many times the smallest, the scale is logarithmic."""

LEVELS = 9
"""Lines on a loss surface, about."""


def figures(study: Study) -> list[Block]:
    """Return the figures for what was measured, with what could not be drawn and why."""
    return [*_curves(study), *_surfaces(study)]


def tables(study: Study) -> list[Block]:
    """Return the tables, folded away."""
    sharpness = study.select("loss", "loss.gap", split="train")
    sharpness += study.select("sharpness.*", "distance.*", "hessian.*")
    rises = study.select("rise.*")
    blocks = [
        *quantity_table(study, "Sharpness and Hessian", "measure", sharpness),
        *quantity_table(study, "Rise of the loss along directions", "measure", rises),
    ]
    return folded("Sharpness and Hessian", [*blocks, *_exactness(study)] if blocks else [])


def loss_by_radius(group: Group, along: str) -> Band | None:
    """Return the band of the losses by radius, the solution's at 0 among them; what is not finite is NaN."""
    losses: dict[float, list[float]] = {}
    for curve in filter(None, (_curve(run, along) for run in group.runs)):
        for radius, loss in {**dict(zip(curve.radii, curve.mean, strict=True)), 0.0: curve.centre}.items():
            losses.setdefault(radius, []).append(math.nan if loss is None else loss)
    return band(losses)


def levels(losses: Sequence[float]) -> list[float]:
    """Return some `LEVELS` round numbers at most between smallest and largest loss, 1-2-5 where they span far."""
    low, high = (min(losses), max(losses)) if losses else (0.0, 0.0)
    if low >= high:
        return []
    if 0 < low * 4 < high:
        ticks = LogLocator(subs=(1, 2, 5), numticks=99).tick_values(low, high)
    else:
        ticks = MaxNLocator(LEVELS - 2).tick_values(low, high)
    inside = [float(tick) for tick in ticks if low < tick < high]
    return inside[:: math.ceil(len(inside) / LEVELS)] if inside else []


def _flatness(run: RunRecord) -> Flatness | None:
    return run.evidence.flatness.result if run.evidence and run.evidence.flatness else None


def _curve(run: RunRecord, along: str) -> Curve | None:
    return getattr(_flatness(run), along, None)


def _images(study: Study) -> str:
    """Return which images flatness was measured on."""
    splits = {flatness.split for run in study.runs if (flatness := _flatness(run))}
    return " or ".join({"train": "training"}.get(split, split) for split in sorted(splits))


def _curves(study: Study) -> list[Block]:
    panels: list[Panel] = []
    texts: list[Block] = []
    images: set[int] = set()
    for along, name in ALONG.items():
        curves = [curve for run in study.runs if (curve := _curve(run, along))]
        if len({curve.radii for curve in curves}) > 1 or _differ(study, f"rise.{along}"):
            texts.append(Text(f"Loss along {name} is not drawn: it was measured with different settings."))
        elif curves:
            panels.append(_curve_panel(study, along))
            images.add(curves[0].count)
    if not panels:
        return texts
    caption = (
        f"Loss on {listing(f'{count:,}' for count in sorted(images))} {_images(study)} images around the solution: "
        "mean over seeds, the bands from the smallest to the largest"
    )
    return [Figure(caption, tuple(panels)), *texts]


def _differ(study: Study, measure: str) -> bool:
    """Return whether a measure was taken with different settings, such as on other images."""
    return any(quantity.differing() for quantity in study.select(measure))


def _curve_panel(study: Study, along: str) -> Panel:
    bands = {group.label: band for group in study.groups if (band := loss_by_radius(group, along))}
    lines = [
        Line(group.label, color_of(study, group), bands[group.label]) for group in study.groups if group.label in bands
    ]

    def draw(axes: Axes) -> None:
        plot(axes, lines)
        _scale(axes, [loss for line in lines for loss in (*line.band.low, *line.band.high)])
        axes.set_xlabel(UNITS[along])
        axes.legend(loc="upper left")

    alt = f"Loss against the distance from the solution along {ALONG[along]}, for {', '.join(bands)}"
    return panel(f"flat-{along}", alt, f"Loss along {ALONG[along]}", draw)


def _scale(axes: Axes, losses: Iterable[float]) -> None:
    """Make the scale of the losses logarithmic where they span far."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite or min(finite) <= 0 or max(finite) < WIDE * min(finite):
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", left=False)


def _surfaces(study: Study) -> list[Block]:
    shown = [(number, group, *first) for number, group in enumerate(study.groups) if (first := _first_surface(group))]
    if not shown:
        return []
    surfaces = [surface for *_, surface in shown]
    if len({(surface.positions, surface.count) for surface in surfaces}) > 1 or _differ(study, "rise.*"):
        return [Text("The loss surfaces are not drawn: they were measured with different settings.")]
    lines = levels([loss for surface in surfaces for row in surface.losses for loss in row if loss is not None])
    panels = tuple(
        panel(
            f"surface-{number}",
            f"Loss of {group.label} on a plane through the solution, seed {seed}, as shades with contour lines",
            f"{group.label}, seed {seed}",
            partial(_draw_surface, surface=surface, lines=lines),
            size=(4.0, 3.7),
        )
        for number, group, seed, surface in shown
    )
    caption = (
        f"Loss on {surfaces[0].count:,} {_images(study)} images over two random directions, relative to the filters, "
        "the solution in the middle: one seed of each recipe, the same shades and lines in all, stronger is higher"
    )
    return [Figure(caption, panels)]


def _first_surface(group: Group) -> tuple[int, Surface] | None:
    by_seed = ((run.config.seed, flatness.surface) for run in group.runs if (flatness := _flatness(run)))
    return next(((seed, surface) for seed, surface in by_seed if surface), None)


def _draw_surface(axes: Axes, surface: Surface, lines: Sequence[float]) -> None:
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
            contour = axes.contour(at, at, heights, levels=steps, colors=INK, linewidths=0.6, linestyles="solid")
            wide = [  # enough for a number on the line
                level
                for level, path in zip(contour.levels, contour.get_paths(), strict=True)
                if path.get_extents().height > 0.25 * (at[-1] - at[0])
            ]
            texts = dict(zip(contour.levels, map("{:g}".format, lines), strict=True))
            axes.clabel(contour, levels=wide, fmt=texts, fontsize=7)
    axes.plot([0], [0], marker="+", color=INK, markersize=7)
    axes.set_aspect("equal")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(visible=False)
    axes.set_xlabel("second direction")
    axes.set_ylabel("first direction")


def _exactness(study: Study) -> list[Block]:
    """Return how exact the figures of the Hessian are."""
    parts = [(run.name, flatness) for run in study.runs if (flatness := _flatness(run))]
    errors = [f.trace.standard_error for _, f in parts if f.trace and f.trace.standard_error is not None]
    blocks: list[Block] = []
    if errors:
        text = decimal(median(errors), decimals([median(errors)]))
        blocks.append(Text(f"Standard error of the trace, from its random vectors: {text} (median over runs)."))
    loose = [(name, f.eigenvalues) for name, f in parts if f.eigenvalues and not f.eigenvalues.converged]
    if loose:
        residuals = [r for _, values in loose for r in values.residuals[:1] if r is not None]
        largest = f": residual up to {decimal(max(residuals), decimals(residuals))}" if residuals else ""
        names = listing(name for name, _ in loose)
        blocks.append(Text(f"The largest eigenvalue had not converged in {names}{largest}."))
    return blocks
