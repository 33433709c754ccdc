"""Putting the report on disk."""

from __future__ import annotations

from pathlib import Path

from flatnext.errors import InputError
from flatnext.files import write_atomically
from flatnext.report.content import content
from flatnext.report.markdown import FIGURES, files, markdown
from flatnext.report.page import page
from flatnext.study.table import Study

OURS = (
    *("curves-*.svg", "seeds.svg", "differences.svg", "confusion-*.svg", "mistake-*.png"),
    *("flat-*.svg", "surface-*.svg", "reliability-*.svg", "looked-*.png"),
)
"""The names of the figures that a report may have."""


def write_report(study: Study, output: Path) -> None:
    """Write `report.html`, `report.md` and its `figures/` to the folder `output`, each file whole or not at all.

    The same study gives the same bytes. Figures of an earlier report that this one lacks are removed. Raises
    `InputError` where the folder cannot be written.
    """
    report = content(study)
    figures = files(report)
    folder = output / FIGURES
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {folder}: {error.strerror}; choose another folder") from error
    for name, data in figures.items():
        write_atomically(folder / name, data)
    write_atomically(output / "report.md", markdown(report))
    write_atomically(output / "report.html", page(report))
    for pattern in OURS:
        for file in folder.glob(pattern):
            if file.name not in figures:
                file.unlink()
