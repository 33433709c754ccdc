"""The model card of packed weights, in the form of the Hugging Face Hub: YAML metadata, then Markdown.

The fields are those of "Model Cards for Model Reporting" (arXiv 1810.03993) and of the Hub's template.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from scipy.stats import binomtest

from flatnext.config import Model
from flatnext.deploy.measure import MOST_CHANGE, PRECISION, Measured, near_chance
from flatnext.durations import duration
from flatnext.models import Origin
from flatnext.models.catalog import Shipped
from flatnext.runs.records import RunRecord

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class DataNote:
    """A data set as a card tells of it: its id on the Hub, its home, what it is, its licence, and known limits."""

    title: str
    id: str
    home: str
    what: str
    licence: str
    limits: tuple[str, ...]


CIFAR_HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"
CIFAR_LICENCE = (
    "Its authors state no licence; they ask to cite A. Krizhevsky, Learning Multiple Layers of Features from Tiny "
    "Images, 2009. The images were collected from the web, and their rights lie with others. No image is in the "
    "weights file."
)
TINY_IMAGES = (
    "The images are a labelled part of 80 Million Tiny Images, which its authors withdrew in 2020 because it has "
    "offensive images and labels."
)
NOTES = {
    "cifar10": DataNote(
        title="CIFAR-10",
        id="uoft-cs/cifar10",
        home=CIFAR_HOME,
        what="60,000 colour photographs of 32 x 32 pixels in ten classes, 50,000 for training and 10,000 for the test.",
        licence=CIFAR_LICENCE,
        limits=(
            "3.25 % of the test images have near-duplicates in the training set or the test set (arXiv 1902.00423), "
            "and at least 54 of the 10,000 test labels are wrong: those that people did not confirm, of 275 that "
            "looked wrong to a program (arXiv 2103.14749).",
            "On a new test set made in the same way, CIFAR-10.1, models lost 4 to 10 points (arXiv 1806.00451).",
            TINY_IMAGES,
        ),
    ),
    "cifar100": DataNote(
        title="CIFAR-100",
        id="uoft-cs/cifar100",
        home=CIFAR_HOME,
        what="60,000 colour photographs of 32 x 32 pixels in 100 classes, 50,000 for training and 10,000 for the test.",
        licence=CIFAR_LICENCE,
        limits=(
            "10 % of the test images have near-duplicates in the training set or the test set (arXiv 1902.00423), and "
            "about 6 % of the test labels are wrong (arXiv 2103.14749).",
            TINY_IMAGES,
        ),
    ),
    "digits": DataNote(
        title="the digits of scikit-learn",
        id="sklearn-digits",
        home="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        what="1,797 digits of 8 x 8 pixels, the test part of a UCI set, divided here into training and test.",
        licence="CC BY 4.0: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.",
        limits=("The images of training and test may be by the same writers, so that others' digits are harder.",),
    ),
    "folder": DataNote(
        title="a folder of images",
        id="folder",
        home="",
        what="Images of the one who trained the model.",
        licence="Not known here: whoever passes these weights on should say.",
        limits=("Nothing is known here of how the images were chosen.",),
    ),
}


def model_card(
    record: RunRecord, checkpoint: str, origin: Origin, entry: Shipped, measured: Measured, load_as: str
) -> str:
    """Return the card of the weights `entry`, packed from a run's `checkpoint`, as Markdown.

    `load_as` is the name or the path by which the card's examples load them.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["yaml"] = json.dumps  # JSON's strings and numbers are YAML's
    environment.filters["duration"] = duration
    environment.filters["shell"] = shlex.quote
    own = record.result.best if checkpoint == "best" else record.result.last
    assert own is not None  # its weights were found
    return environment.get_template("card.md.j2").render(
        record=record,
        checkpoint=checkpoint,
        own=own,
        origin=origin,
        entry=entry,
        measured=measured,
        load_as=load_as,
        remark=near_chance(measured.scores),
        architecture=_settings(origin.config.model),
        data=NOTES[record.config.data.dataset],
        interval=interval(round(entry.accuracy * entry.count), entry.count),
        most_change=MOST_CHANGE,
        precision=PRECISION,
        config=json.dumps(record.config.to_json(), indent=1),
        date=datetime.now(UTC).date().isoformat(),
    )


def _settings(model: Model) -> str:
    """Return the settings of a model, `blocks 3, 3, 3; cardinality 32; ...`, but for the limit that shapes nothing."""
    values = {name: value for name, value in asdict(model).items() if name != "parameter_budget"}
    return "; ".join(
        f"{name} {', '.join(map(str, value)) if isinstance(value, tuple) else value}" for name, value in values.items()
    )


def interval(correct: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a fraction: what the number of test images alone leaves open."""
    found = binomtest(correct, count).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)
