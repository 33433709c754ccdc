"""Scores of a model on a set of images, and the images that it misclassified."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flatnext.schema import LARGEST_INTEGER

ROUNDING = 1e-6
"""A mean of confidences may exceed 1 by as little."""

MOST_CLASSES_IN_FULL = 100
"""Of more classes a confusion matrix is written without its zeros: of 2,000 it has four million numbers."""


class Confusion(tuple[tuple[int, ...], ...]):
    """Numbers of images by true class (row) and predicted class (column), in tuples.

    In JSON it is a list of rows. A row is a list, or of many classes an object: numbers by predicted class, from 0,
    without zeros.
    """

    @classmethod
    def of(cls, rows: Iterable[Iterable[int]]) -> Confusion:
        """Return the matrix with these rows."""
        return cls(map(tuple, rows))

    def to_plain(self) -> list[Any]:
        """Return what `json` can write."""
        if len(self) <= MOST_CLASSES_IN_FULL:
            return [list(row) for row in self]
        return [{str(column): count for column, count in enumerate(row) if count} for row in self]

    @classmethod
    def from_plain(cls, content: Any) -> Confusion:
        """Return what `to_plain` gave, and `ValueError` for anything else."""
        require(isinstance(content, (list, tuple)), "confusion is no list of rows")
        return cls.of(_row(row, len(content)) for row in content)


def _row(content: Any, classes: int) -> list[int]:
    """Return a row of a confusion matrix from JSON."""
    row: Any = content
    if isinstance(content, Mapping):
        row = [0] * classes
        for column, count in content.items():
            require(column.isdecimal() and int(column) < classes, f"confusion has a class {column!r}")
            row[int(column)] = count
    numbers = isinstance(row, (list, tuple)) and all(type(n) is int and n <= LARGEST_INTEGER for n in row)
    require(numbers, "confusion has a row without numbers")
    return row


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Loss (mean cross-entropy, None where it is not finite) and accuracy (a fraction) on `count` images.

    Of `not_finite` images a logit is not finite; they count as classified wrongly. `confusion` is None where it was
    not kept; `balanced_accuracy` is then that over the classes, where these are uneven (`class_balance.is_uneven`).
    """

    loss: float | None
    accuracy: float
    count: int
    not_finite: int = 0
    confusion: Confusion | None = None
    balanced_accuracy: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_count(self.count)
        check_fractions(accuracy=self.accuracy, balanced_accuracy=self.balanced_accuracy)
        require(min((min(row, default=0) for row in self.confusion or ()), default=0) >= 0, "confusion is below zero")


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A misclassified image; `label` and `predicted` index the classes, `png` is the image in base64.

    `file` is the name that the data set knows it by, where the images are files.
    """

    index: int
    label: int
    predicted: int
    confidence: float
    png: str
    file: str | None = None

    def __post_init__(self) -> None:
        """Check the confidence and the image."""
        check_fractions(confidence=self.confidence)
        require(is_png(self.png), f"the mistake at image {self.index} has no PNG image")


def require(condition: bool, message: str) -> None:
    """Raise `ValueError` with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def check_count(count: int) -> None:
    """Raise `ValueError` for a number of images below 1."""
    require(count > 0, f"count is {count}")


def check_fractions(**values: float | Sequence[float | None] | None) -> None:
    """Raise `ValueError` for a number outside [0, 1]."""
    for name, value in values.items():
        for fraction in value if isinstance(value, Sequence) else (value,):
            require(fraction is None or -ROUNDING <= fraction <= 1 + ROUNDING, f"{name} holds {fraction}, no fraction")


def check_classes(at: str, classes: int, confusion: Confusion | None, mistakes: Sequence[Mistake] = ()) -> None:
    """Raise `ValueError`, naming the place, for a confusion matrix or mistake that is not of this number of classes."""
    if confusion is not None:
        rows = [len(row) for row in confusion]
        require(rows == [classes] * classes, f"{at}: confusion is not {classes} by {classes}")
    for mistake in mistakes:
        known = 0 <= mistake.label < classes and 0 <= mistake.predicted < classes
        require(known, f"{at}: the mistake at image {mistake.index} has a class that does not exist")


def is_png(text: str) -> bool:
    """Return whether a text is a PNG file in base64."""
    try:
        return base64.b64decode(text, validate=True).startswith(b"\x89PNG")
    except ValueError:
        return False
