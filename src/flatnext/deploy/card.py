"""The model card of packed weights, in the form of the Hugging Face Hub: YAML metadata, then Markdown.

The fields are those of "Model Cards for Model Reporting" (arXiv 1810.03993) and of the Hub's template.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flatnext.config import Model
from flatnext.deploy.data_notes import NOTES
from flatnext.deploy.measure import MOST_CHANGE, PRECISION, Measured, near_chance
from flatnext.models import Origin
from flatnext.models.catalog import Shipped
from flatnext.progress import printable
from flatnext.report.markdown import escape
from flatnext.runs.records import RunRecord
from flatnext.study.statistics import wilson
from flatnext.words import duration


def model_card(
    record: RunRecord,
    checkpoint: str,
    origin: Origin,
    entry: Shipped,
    measured: Measured,
    load_as: str,
    licence: str | None = None,
) -> str:
    """Return the card of the weights `entry`, packed from a run's `checkpoint`, as Markdown.

    `load_as` is the name or the path by which the card's examples load them, `licence` that of the weights as the Hub
    calls it, None where nobody has said it.
    """
    run_scores = record.result.best if checkpoint == "best" else record.result.last
    assert run_scores is not None  # its weights were found
    return (
        environment()
        .get_template("card.md.j2")
        .render(
            record=record,
            checkpoint=checkpoint,
            run_scores=run_scores,
            origin=origin,
            entry=entry,
            measured=measured,
            load_as=load_as,
            licence=licence,
            remark=near_chance(measured.scores),
            architecture=settings_of(origin.config.model),
            data=NOTES[record.config.data.dataset],
            interval=wilson(entry.accuracy, entry.count),
            most_change=MOST_CHANGE,
            precision=PRECISION,
            config=json.dumps(record.config.to_json(), indent=1),
            date=datetime.now(UTC).date().isoformat(),
        )
    )


def environment() -> Environment:
    """Return Jinja's environment of the cards' templates, with their filters."""
    result = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    result.filters["yaml"] = json.dumps  # JSON's strings and numbers are YAML's
    result.filters["python"] = partial(json.dumps, ensure_ascii=False)  # and its strings Python's
    result.filters["text"] = markdown
    result.filters["code"] = code
    result.filters["duration"] = duration
    result.filters["shell"] = shlex.quote
    return result


def markdown(text: str) -> str:
    """Return a text of somebody's, such as the name of a class, as Markdown and HTML that show it as it is."""
    return escape(printable(text))


def code(text: str) -> str:
    """Return a text as code in Markdown, within a table too: in more backticks than it has in a row."""
    text = printable(text).replace("|", "\\|")
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


def settings_of(model: Model) -> str:
    """Return the settings of a model, `blocks 3, 3, 3; cardinality 32; ...`, without its limit on parameters."""
    values = {name: value for name, value in asdict(model).items() if name != "parameter_budget"}
    return "; ".join(
        f"{name} {', '.join(map(str, value)) if isinstance(value, tuple) else value}" for name, value in values.items()
    )
