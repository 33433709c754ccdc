"""Matplotlib figures as SVG that follows the page: text stays text, colours become the variables of `theme.css`."""

from __future__ import annotations

import html
import io
import re
from functools import cache
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from flatnext.report.blocks import plain

SERIES = ("#0068a8", "#c24d00", "#007a5a", "#a23c80", "#7a6400", "#555e66")
"""The recipes' colours, in order: told apart with any colour vision, and by their lightness."""

INK, QUIET, RULE, PAPER, WRONG, RIGHT = "#22252a", "#5d636c", "#dcd8d0", "#fdfcfa", "#c8541b", "#2b7a9e"

VARIABLES = {INK: "ink", QUIET: "quiet", RULE: "rule", PAPER: "paper", WRONG: "wrong", RIGHT: "right"} | {
    color: f"series-{number}" for number, color in enumerate(SERIES)
}

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "flatnext",  # the same figure gives the same bytes
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": QUIET,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.facecolor": PAPER,
    "legend.edgecolor": "none",
    "legend.fancybox": False,
    "legend.handlelength": 2.2,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}
"""Matplotlib's settings while a figure is drawn: enter `matplotlib.rc_context(STYLE)`."""


def to_svg(figure: Figure, name: str, alt: str) -> str:
    """Return the figure as an `<svg>` element with `alt` as its title; its ids start with `name`, which is unique."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", lambda tag: _tag(tag[0], name), text)
    opening, rest = text.split(">", 1)
    opening = re.sub(r' (width|height)="([\d.]+)pt"', "", opening)
    opening += f' role="img" aria-labelledby="{name}-title"'
    return f'{opening}>\n <title id="{name}-title">{html.escape(plain(alt), quote=False)}</title>{rest}'.strip()


def _tag(tag: str, name: str) -> str:
    """Return a tag with the page's colours and font, and ids that start with `name`."""
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px system-ui, sans-serif", tag)
    for color, variable in VARIABLES.items():
        tag = tag.replace(color, f"var(--{variable})")
    return tag


def standalone(svg: str) -> str:
    """Return an element of `to_svg` as a file that stands alone, with the theme in it."""
    opening, rest = svg.split(">", 1)
    return f"{opening}><style>{theme()}image {{ image-rendering: pixelated; }}</style>{rest}\n"


@cache
def theme() -> str:
    """Return `theme.css`: the colours, for light and dark."""
    return Path(__file__).with_name("theme.css").read_text(encoding="utf-8")
