"""Answers about files as text: a table for people, JSON Lines and CSV for programs."""

from __future__ import annotations

import csv
import json
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any, TextIO

from flatnext.deploy.classifier import chunks
from flatnext.deploy.prediction import Prediction, Question
from flatnext.progress import printable

ROWS = 1000
"""Rows of one table: of more, one follows the other, so that none waits for all."""

NONE = "none of these"

Answers = Iterator[tuple[str, Prediction]]
"""Files by name, with their answers."""


def write_answers(answers: Answers, question: Question, format: str) -> None:
    """Write answers as `table`, `jsonl` or `csv` to standard output, as they come."""
    {"table": _table, "jsonl": _jsonl, "csv": _csv}[format](answers, question, sys.stdout)


def _jsonl(answers: Answers, question: Question, file: TextIO) -> None:
    for name, answer in answers:
        content: dict[str, Any] = {
            "file": name,
            "label": answer.label,
            "probability": round(answer.probability, 6),
            "none": answer.none,
        }
        if answer.set is not None:
            content["set"] = list(answer.set)
        if question.top > 1:
            content["top"] = [{"label": label, "probability": round(p, 6)} for label, p in answer.top]
        print(json.dumps(content), file=file)


def _csv(answers: Answers, question: Question, file: TextIO) -> None:
    """Write a row a file: its answer, the members of the set with `|` between them, and further classes.

    A `|` in a name is `\\|`.
    """
    writer = csv.writer(file, lineterminator="\n")
    sets = ["set"] if question.coverage is not None else []
    others = [f"{what}_{place}" for place in range(2, question.top + 1) for what in ("label", "probability")]
    writer.writerow(["file", "label", "probability", "none", *sets, *others])
    for name, answer in answers:
        members = [] if answer.set is None else ["|".join(_cell(label).replace("|", "\\|") for label in answer.set)]
        further = [cell for label, p in answer.top[1:] for cell in (_cell(label), f"{p:.6f}")]
        none = "true" if answer.none else "false"
        row = [_cell(name), _cell(answer.label), f"{answer.probability:.6f}", none, *members, *further]
        writer.writerow(row)


def _cell(text: str) -> str:
    """Return a name as it is, but for what no text file can hold or a terminal would act on, by its escapes."""
    controls = ("Cc", "Cs")  # control characters; bytes of a file's name that are no UTF-8
    return "".join(printable(c) if unicodedata.category(c) in controls else c for c in text)


def _table(answers: Answers, question: Question, file: TextIO) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=file)
    for rows in chunks(answers, ROWS):
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("file", overflow="fold")
        table.add_column("class", overflow="fold")
        table.add_column("probability", justify="right")
        if question.coverage is not None:
            table.add_column(f"set ({question.coverage:.4g})", overflow="fold")
        if question.top > 1:
            table.add_column("next", overflow="fold")
        for name, answer in rows:
            label = NONE if answer.none else printable(answer.label)
            cells = [printable(name), label, f"{answer.probability:.1%}"]
            if answer.set is not None:
                cells.append(", ".join(map(printable, answer.set)) or NONE)
            if question.top > 1:
                shown = answer.top if answer.none else answer.top[1:]
                cells.append(", ".join(f"{printable(other)} {p:.1%}" for other, p in shown))
            table.add_row(*map(Text, cells), style="dim" if answer.none else None)
        console.print(table)
