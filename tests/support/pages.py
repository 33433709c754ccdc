"""The report of a study folder, parsed."""

from html.parser import HTMLParser
from pathlib import Path

from flatnext.report import write_report
from flatnext.study.reading import read_study


class Page(HTMLParser):
    """The page's text, tables, ids and what it refers to, and whether its elements are closed."""

    VOID = ("meta", "link", "img", "br", "path", "use", "image", "rect")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).replace("\u00a0", " ").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data.replace("\u00a0", " ").strip()

    def table(self, corner: str) -> list[list[str]]:
        """Return the first table with this first cell."""
        return next(table for table in self.tables if table[0] and table[0][0] == corner)

    def row(self, first: str) -> list[str]:
        """Return the first row with this first cell."""
        return next(row for table in self.tables for row in table if row and row[0] == first)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of each element of a kind."""
        return [attributes for name, attributes in self.tags if name == tag]


def report(folder: Path) -> tuple[Page, str]:
    """Write the report of a study folder into it; return the page and the Markdown."""
    write_report(read_study([folder]), folder)
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    return page, (folder / "report.md").read_text(encoding="utf-8")
