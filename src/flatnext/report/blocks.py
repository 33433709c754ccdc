"""What a report is made of, before it is HTML or Markdown. Text is as people write it: whoever renders it escapes it.

Names of recipes, classes and folders are a user's: what renders them also leaves out what cannot be shown (`plain`).
"""

from __future__ import annotations

from dataclasses import dataclass


def plain(text: str) -> str:
    """Return text without characters that control the output, such as escapes; line breaks and tabs become spaces.

    A byte of a path that is not UTF-8 is written as the escape that Python has for it.
    """
    return "".join(map(_plain, text))


def _plain(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return character.encode("unicode_escape").decode()
    if character.isprintable() or character == "\u00a0":
        return character
    return " " if character.isspace() else ""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """Commands, one a line."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row; with `numeric`, the others hold numbers. `header` may be empty.

    `series` gives each row the number of the recipe it belongs to, for its colour. `heat` holds a shade from 0 to 1 for
    each cell but the first of a row; negative for a cell that is right, as on the diagonal of a confusion matrix.
    With `stacked` the cells of a row stand below each other where there is little room: for long texts. With
    `bold_last` the last column is the one to read first.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: bool = True
    series: tuple[int, ...] = ()
    heat: tuple[tuple[float, ...], ...] = ()
    stacked: bool = False
    bold_last: bool = False


@dataclass(frozen=True)
class Panel:
    """One drawing, an SVG element whose colours are CSS variables of `theme.css`; `name` is its file's."""

    name: str
    alt: str
    svg: str


@dataclass(frozen=True)
class Figure:
    """Panels side by side where there is room."""

    caption: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class View:
    """The same image seen otherwise, a PNG file in base64, to stand beside it; `name` is its file's."""

    name: str
    label: str
    png: str


@dataclass(frozen=True)
class Picture:
    """A small image, a PNG file in base64, with its views beside it and the lines below; `name` is its file's."""

    name: str
    alt: str
    png: str
    lines: tuple[str, ...]
    views: tuple[View, ...] = ()


@dataclass(frozen=True)
class Gallery:
    """Small images."""

    caption: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away until asked for."""

    summary: str
    blocks: tuple[Block, ...]


Block = Text | Code | Table | Figure | Gallery | Details


@dataclass(frozen=True)
class Section:
    """A part of the report; `name` is its anchor."""

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Key:
    """A number to see first: one recipe's test accuracy. `series` is the recipe's colour."""

    label: str
    value: str
    detail: str
    series: int


@dataclass(frozen=True)
class Report:
    """The whole report: what to take, what went wrong, a sentence for each comparison, and what to know in reading.

    `kicker` stands above the title and says what kind of report it is.
    """

    title: str
    advice: str
    warnings: tuple[str, ...]
    verdict: tuple[str, ...]
    remarks: tuple[str, ...]
    keys: tuple[Key, ...]
    sections: tuple[Section, ...]
    kicker: str = "FlatNeXt study"
