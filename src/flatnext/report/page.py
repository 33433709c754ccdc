"""The report as one HTML page that needs nothing else: no script, no request, its figures and images inside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from flatnext.report.blocks import Report, plain
from flatnext.report.svg import SERIES, theme

FOLDER = Path(__file__).parent


def bound(text: str) -> str:
    """Return the text with no line break between a number and its unit or sign."""
    return re.sub(r"(?<=\d) (?=[%±])|(?<=[±=<−]) (?=[\d.])|(?<=\bp) (?=[<=])", "\u00a0", text)


def _shown(value: Any) -> Any:
    """Return what the template writes: text without control characters, markup of our own as it is."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def page(report: Report) -> str:
    """Return the HTML page. All text is escaped by the template; the SVG elements and the style sheets are ours."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = Markup
    environment.filters["bound"] = bound
    environment.filters["kind"] = lambda block: type(block).__name__
    style = theme() + (FOLDER / "page.css").read_text(encoding="utf-8")
    return environment.get_template("report.html.j2").render(report=report, style=Markup(style), colors=len(SERIES))
