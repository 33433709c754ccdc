"""The report as Markdown, with the figures and images as files beside it."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable

from flatnext.report.blocks import Block, Code, Details, Figure, Gallery, Picture, Report, Table, Text, plain
from flatnext.report.svg import standalone

FIGURES = "figures"
"""The folder of the figures, beside the Markdown file."""


def markdown(report: Report) -> str:
    """Return the report as Markdown (GitHub's)."""
    lines = [f"# {escape(report.title)}", f"**{escape(report.advice)}**"]
    lines += [f"**Warning:** {escape(warning)}" for warning in report.warnings]
    lines += [escape(sentence) for sentence in (*report.verdict, *report.remarks)]
    if report.keys:
        lines.append("\n".join(f"- {escape(f'{key.label}: {key.value} ({key.detail})')}" for key in report.keys))
    for section in report.sections:
        lines += [f"## {escape(section.title)}", *map(_block, section.blocks)]
    return "\n\n".join(lines) + "\n"


def files(report: Report) -> dict[str, bytes]:
    """Return the files that the Markdown shows, by their names in `FIGURES`."""
    return _files(block for section in report.sections for block in section.blocks)


def _files(blocks: Iterable[Block]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for block in blocks:
        if isinstance(block, Figure):
            found |= {f"{panel.name}.svg": standalone(panel.svg).encode() for panel in block.panels}
        elif isinstance(block, Gallery):
            for picture in block.pictures:
                images = ((picture.name, picture.png), *((view.name, view.png) for view in picture.views))
                found |= {f"{name}.png": base64.b64decode(png) for name, png in images}
        elif isinstance(block, Details):
            found |= _files(block.blocks)
    return found


def escape(text: str) -> str:
    """Return plain text as Markdown that shows it as it is, on one line."""
    text = html.escape(plain(" ".join(text.split())), quote=False)
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", text)


def _block(block: Block) -> str:
    match block:
        case Text(text):
            return escape(text)
        case Code(lines):
            return "\n".join(f"    {plain(' '.join(line.split()))}" for line in lines)
        case Table():
            return _table(block)
        case Figure(caption, panels):
            images = "\n".join(f"![{escape(panel.alt)}]({FIGURES}/{panel.name}.svg)" for panel in panels)
            return f"*{escape(caption)}*\n\n{images}"
        case Gallery():
            return _gallery(block)
        case Details(summary, blocks):
            inner = "\n\n".join(map(_block, blocks))
            return f"<details><summary>{escape(summary)}</summary>\n\n{inner}\n\n</details>"


def _table(table: Table) -> str:
    header = table.header or ("", "")
    align = ("---", *("---:" if table.numeric else "---" for _ in header[1:]))
    rows = (header, align, *table.rows)
    cells = [[cell if number == 1 else escape(cell) for cell in row] for number, row in enumerate(rows)]
    return f"*{escape(table.caption)}*\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _gallery(gallery: Gallery) -> str:
    most = max(len(picture.lines) for picture in gallery.pictures)
    lines = [(*map(escape, p.lines), *("" for _ in range(most - len(p.lines)))) for p in gallery.pictures]
    rows = tuple(f"| {_images(p)} | {' | '.join(own)} |" for p, own in zip(gallery.pictures, lines, strict=True))
    columns = 1 + most
    header = f"| image |{' |' * (columns - 1)}", f"|{' --- |' * columns}"
    return f"*{escape(gallery.caption)}*\n\n" + "\n".join((*header, *rows))


def _images(picture: Picture) -> str:
    shown = ((picture.alt, picture.name), *((view.label, view.name) for view in picture.views))
    return " ".join(f"![{escape(text)}]({FIGURES}/{name}.png)" for text, name in shown)
