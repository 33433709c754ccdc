"""Scores of a model on a set of images, and the images that it misclassified."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

ROUNDING = 1e-6
"""A mean of confidences may exceed 1 by as little."""

Confusion = tuple[tuple[int, ...], ...]
"""Numbers of images by true class (row) and predicted class (column)."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Loss (mean cross-entropy, None where it is not finite) and accuracy (a fraction) on `count` images.

    `confusion` is None where it was not kept.
    """

    loss: float | None
    accuracy: float
    count: int
    confusion: Confusion | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_count(self.count)
        check_fractions(accuracy=self.accuracy)
        require(min((min(row, default=0) for row in self.confusion or ()), default=0) >= 0, "confusion is below zero")


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A misclassified image; `label` and `predicted` index the classes, `png` is its file in base64."""

    index: int
    label: int
    predicted: int
    confidence: float
    png: str

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
