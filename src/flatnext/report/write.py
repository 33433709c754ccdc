"""Writing the report to disk."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from flatnext.errors import InputError
from flatnext.files import write_atomically
from flatnext.report.blocks import plain
from flatnext.report.content import content
from flatnext.report.markdown import FIGURES, files, markdown
from flatnext.report.page import page
from flatnext.study.groups import setting_text
from flatnext.study.measures import measure
from flatnext.study.study import Study

OURS = (
    *("curves-*.svg", "seeds.svg", "differences.svg", "confusion-*.svg", "mistake-*.png", "looked-*.png"),
    *("flat-*.svg", "surface-*.svg", "reliability-*.svg", "corruptions-*.svg", "attacks-*.svg"),
)
"""The names of the figures that a report may have."""

COLUMNS = ("recipe", "seed", "split", "measure", "at", "value", "images", "unit", "conditions")


def write_report(study: Study, output: Path) -> None:
    """Write `report.html`, `report.md` with its `figures/`, and `measurements.csv` to the folder `output`.

    Each file is written whole or not at all. The same study gives the same bytes. Figures of an earlier report that
    this one lacks are removed. Raises `InputError` where the folder cannot be written.
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
    write_atomically(output / "measurements.csv", measurements_csv(study))
    write_atomically(output / "report.md", markdown(report))
    write_atomically(output / "report.html", page(report))
    for pattern in OURS:
        for file in folder.glob(pattern):
            if file.name not in figures:
                file.unlink()


def measurements_csv(study: Study) -> str:
    """Return the table of measurements as CSV: fractions in full precision, empty where there is no value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in study.measurements:
        unit = measure(row.measure).unit.replace("%", "fraction")
        conditions = "; ".join(f"{name}={setting_text(value)}" for name, value in row.conditions.items())
        cells = (row.recipe, row.seed, row.split, row.measure, row.at, row.value, row.images, unit, conditions)
        writer.writerow(plain(cell) if isinstance(cell, str) else "" if cell is None else cell for cell in cells)
    return text.getvalue()
