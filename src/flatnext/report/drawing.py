"""Drawing: a panel, and lines with bands in the colours of the recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flatnext.report.blocks import Panel, plain
from flatnext.report.svg import SERIES, STYLE, to_svg
from flatnext.study.groups import Group
from flatnext.study.study import Study

SIZE = (4.0, 2.9)
"""Inches. One panel is as wide as a phone, so that its text is as large as the page's notes."""

FEW = 15
"""Up to this many points each is marked by a dot."""


class Band(NamedTuple):
    """Where, and there the mean, the smallest and the largest value over seeds."""

    at: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Line:
    """The mean of a band, with its range as a shade unless it is `dotted`; an empty label is in no legend."""

    label: str
    color: str
    band: Band
    dotted: bool = False


def band(values: Mapping[float, Sequence[float]]) -> Band | None:
    """Return the band of the values at each place; None where there is no place."""
    if not values:
        return None
    at = sorted(values)
    reduced = (np.array([reduce(values[place]) for place in at]) for reduce in (np.mean, np.min, np.max))
    return Band(np.array(at), *reduced)


def plot(axes: Axes, lines: Sequence[Line]) -> None:
    """Draw lines with their bands; a line of few points has dots."""
    for line in lines:
        at, mean, low, high = line.band
        axes.plot(
            at,
            mean,
            color=line.color,
            label=literal(line.label) or None,
            marker="o" if len(at) <= FEW else "",
            markersize=3,
            linestyle=(0, (1.5, 1.5)) if line.dotted else "-",
            linewidth=1.1 if line.dotted else 1.6,
        )
        if not line.dotted and bool(np.any(low < high)):
            axes.fill_between(at, low, high, color=line.color, alpha=0.18, linewidth=0)


def literal(text: str) -> str:
    """Return a text that matplotlib draws as it is: `$` begins no formula, and `_` leaves no line out of the legend."""
    text = "\n".join(map(plain, text.split("\n"))).replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text


def color_of(study: Study, group: Group) -> str:
    """Return the colour of a group, the same in all figures."""
    return SERIES[study.groups.index(group) % len(SERIES)]


def panel(name: str, alt: str, title: str, draw: Callable[[Axes], None], size: tuple[float, float] = SIZE) -> Panel:
    """Return a drawing with a title above; `draw` draws it."""
    return Panel(name, alt, render(name, alt, title, draw, size))


def render(name: str, alt: str, title: str, draw: Callable[[Axes], None], size: tuple[float, float]) -> str:
    """Return the drawing as an SVG element."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set_title(literal(title))
        return to_svg(figure, name, alt)
