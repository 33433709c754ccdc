"""The report's figures, drawn from the study's table."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flatnext.report.blocks import Panel
from flatnext.report.svg import INK, PAPER, QUIET, SERIES, STYLE, WRONG, to_svg
from flatnext.study.statistics import points
from flatnext.study.table import Group, Study

SIZE = (4.0, 2.9)
"""Inches. One panel is as wide as a phone, so that its text is as large as the page's notes."""

FEW = 15
"""Up to this many epochs each is marked by a dot."""

QUANTITIES = {"loss": ("Loss", 1.0), "accuracy": ("Accuracy (%)", 100.0)}

HELD_OUT = {"test": "the test set", "validation": "the validation split"}

Curve = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Where, and there the mean, the smallest and the largest value over seeds."""


def curve(group: Group, field: str) -> Curve | None:
    """Return epochs, and mean, smallest and largest value over seeds, of a field of `Epoch`; None if it has none."""
    values: dict[int, list[float]] = {}
    for run in group.runs:
        for epoch in run.epochs:
            value = getattr(epoch, field)
            if value is not None:
                values.setdefault(epoch.epoch, []).append(value)
    if not values:
        return None
    epochs = sorted(values)
    reduced = [np.array([reduce(values[epoch]) for epoch in epochs]) for reduce in (np.mean, np.min, np.max)]
    return (np.array(epochs), *reduced)  # type: ignore[return-value]


def recipe_curves(study: Study, group: Group) -> tuple[Panel, ...]:
    """Draw a recipe's loss and accuracy in training and on the test set (the report's Figures 3 and 4)."""
    number = study.groups.index(group)
    return tuple(
        panel(
            f"curves-{number}-{quantity}",
            f"{group.label}: {quantity} by epoch, {_where([group])}",
            title,
            partial(_draw_recipe, study=study, group=group, quantity=quantity),
        )
        for quantity, (title, _) in QUANTITIES.items()
    )


def all_curves(study: Study, groups: Sequence[Group]) -> tuple[Panel, ...]:
    """Draw loss and accuracy of several recipes, in training and on the test set."""
    names = ", ".join(group.label for group in groups)
    return tuple(
        panel(
            f"curves-all-{quantity}",
            f"{quantity} by epoch of {names}, {_where(groups)}",
            title,
            partial(_draw_all, study=study, groups=groups, quantity=quantity),
        )
        for quantity, (title, _) in QUANTITIES.items()
    )


def _held_out(groups: Sequence[Group]) -> str | None:
    """Return the split that is drawn beside training's: the test set, else the validation split, if all have it."""
    return next((split for split in HELD_OUT if all(curve(group, f"{split}_accuracy") for group in groups)), None)


def _where(groups: Sequence[Group]) -> str:
    split = _held_out(groups)
    return f"in training and on {HELD_OUT[split]}" if split else "in training"


def _draw_recipe(axes: Axes, study: Study, group: Group, quantity: str) -> None:
    if split := _held_out([group]):
        _draw(axes, group, f"{split}_{quantity}", color=color_of(study, group), label=split, band=True)
    _draw(axes, group, f"train_{quantity}", color=QUIET, linestyle=(0, (4, 2)), label="training", band=True)
    _limit(axes, study.groups, quantity)


def _draw_all(axes: Axes, study: Study, groups: Sequence[Group], quantity: str) -> None:
    split = _held_out(groups)
    for group in groups:
        style: dict[str, Any] = {"color": color_of(study, group), "label": f"{group.label}, {split or 'training'}"}
        if split:
            _draw(axes, group, f"{split}_{quantity}", band=True, **style)
            del style["label"]
        _draw(axes, group, f"train_{quantity}", linestyle=(0, (1.5, 1.5)), linewidth=1.1, **style)
    if split:
        axes.plot([], [], color=QUIET, linestyle=(0, (1.5, 1.5)), linewidth=1.1, label="dotted: training")
    _limit(axes, study.groups, quantity)


def _draw(axes: Axes, group: Group, field: str, *, color: str, band: bool = False, **style: Any) -> None:
    if (found := curve(group, field)) is None:
        return
    epochs, mean, low, high = found
    scale = QUANTITIES[field.split("_")[1]][1]
    band = band and len(group.runs) > 1
    draw_band(axes, (epochs, scale * mean, scale * low, scale * high), color=color, band=band, **style)


def draw_band(axes: Axes, line: Curve, *, color: str, band: bool, **style: Any) -> None:
    """Draw a mean, with dots where it has few points, and around it the `band` from smallest to largest value."""
    at, mean, low, high = line
    marker: dict[str, Any] = {"marker": "o", "markersize": 3} if len(at) <= FEW else {}
    axes.plot(at, mean, color=color, **marker, **style)
    if band:
        axes.fill_between(at, low, high, color=color, alpha=0.18, linewidth=0)


def _limit(axes: Axes, groups: Sequence[Group], quantity: str) -> None:
    """Give the figures of all recipes the same scale."""
    found = [curve(group, f"{split}_{quantity}") for group in groups for split in ("train", "test", "validation")]
    curves = [c for c in found if c is not None]
    low = min(float(smallest.min()) for _, _, smallest, _ in curves)
    high = max(float(largest.max()) for *_, largest in curves)
    if quantity == "loss":
        high = min(high, _ceiling(curves, len(groups[0].runs[0].environment.classes)))
    margin = 0.04 * (high - low) or 0.05
    scale = QUANTITIES[quantity][1]
    axes.set_ylim(scale * max(0, low - margin), scale * (high + margin))
    last = max(int(epochs[-1]) for epochs, *_ in curves)
    axes.set_xlim(1 - 0.02 * last, last * 1.02)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.legend(loc="upper right" if quantity == "loss" else "lower right")


def _ceiling(curves: Sequence[Curve], classes: int) -> float:
    """Return where the scale of a loss ends: half above a guess, or above where a curve ends.

    Batch norm's running statistics can be far off in the first epochs, and a test loss of millions then would flatten
    all that follows.
    """
    return max(1.5 * math.log(classes), *(float(largest[-1]) for *_, largest in curves))


def seeds(study: Study) -> Panel:
    """Draw each recipe's test accuracies, the runs of a seed joined by a line."""
    labels = [group.label for group in study.groups]
    accuracies = [group.accuracy() for group in study.groups]

    def draw(axes: Axes) -> None:
        for seed in sorted({seed for values in accuracies for seed in values}):
            line = [(place, 100 * values[seed]) for place, values in enumerate(accuracies) if seed in values]
            axes.plot(*zip(*line, strict=True), color=QUIET, linewidth=0.8, zorder=1)
        for place, values in enumerate(accuracies):
            color = SERIES[place % len(SERIES)]
            axes.scatter([place] * len(values), [100 * v for v in values.values()], color=color, s=22, zorder=2)
            mean = 100 * float(np.mean(list(values.values())))
            axes.plot([place - 0.14, place + 0.14], [mean, mean], color=INK, linewidth=1.6, zorder=3)
        axes.set_xticks(range(len(labels)), [_wrapped(label, max(8, 44 // len(labels))) for label in labels])
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.grid(visible=False, axis="x")
        axes.margins(y=0.12)

    alt = f"Test accuracy of each seed for {', '.join(labels)}; a line joins the runs of a seed, a bar is the mean"
    return panel("seeds", alt, "Test accuracy (%), one dot a seed", draw)


def differences(study: Study) -> Panel:
    """Draw each recipe's difference to the baseline: its seeds, mean and 95 % interval."""
    shown = [(contrast, c) for contrast in study.contrasts if (c := contrast.comparison) is not None]

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=INK, linewidth=0.8)
        for place, (contrast, comparison) in enumerate(shown):
            color, mean = color_of(study, contrast.group), comparison.difference
            seeds = [100 * d for d in comparison.differences]
            axes.scatter(seeds, [place + 0.22] * len(seeds), edgecolor=color, facecolor=PAPER, s=16, linewidth=1)
            if mean.low is not None and mean.high is not None:
                axes.plot([100 * mean.low, 100 * mean.high], [place, place], color=color, linewidth=2)
            label = f"{points(mean.mean, sign=True)}"
            axes.annotate(label, (100 * mean.mean, place), (0, 7), textcoords="offset points", ha="center", color=INK)
            axes.scatter([100 * mean.mean], [place], color=color, s=36, zorder=3)
        axes.set_yticks(range(len(shown)), [_wrapped(c.group.label, 14) for c, _ in shown])
        axes.set_ylim(len(shown) - 0.3, -0.7)
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.1)
        axes.set_xlabel("percentage points; right of 0 is better")

    baseline = study.contrasts[0].baseline.label
    parts = [f"{c.group.label} {points(d.difference.mean, sign=True)}" for c, d in shown]
    alt = f"Difference in test accuracy to {baseline}, in points: {', '.join(parts)}, with 95 % intervals"
    return panel("differences", alt, f"Difference to {baseline}: seeds, mean, 95 % interval", draw)


def confusion(name: str, alt: str, share: np.ndarray) -> Panel:
    """Draw a confusion matrix of many classes: `share` of each true class (row), the diagonal left out."""
    strength = np.sqrt(share)  # most confusions are rare: the root keeps them visible
    np.fill_diagonal(strength, 0)
    image = np.empty((*share.shape, 4))
    image[..., :3] = mpl.colors.to_rgb(WRONG)
    image[..., 3] = strength / max(strength.max(), 1e-9)

    def draw(axes: Axes) -> None:
        axes.imshow(image, interpolation="none")
        axes.set_xlabel("predicted class (number)")
        axes.set_ylabel("true class (number)")
        axes.grid(visible=False)

    return panel(name, alt, "Errors, stronger where more frequent", draw, size=(4.0, 4.0))


def color_of(study: Study, group: Group) -> str:
    """Return the colour of a group, the same in all figures."""
    return SERIES[study.groups.index(group) % len(SERIES)]


def _wrapped(label: str, width: int) -> str:
    return textwrap.fill(label, width, break_long_words=False)


def panel(name: str, alt: str, title: str, draw: Callable[[Axes], None], size: tuple[float, float] = SIZE) -> Panel:
    """Return a drawing with a title above; `draw` draws it."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set_title(title)
        return Panel(name, alt, to_svg(figure, name, alt))
