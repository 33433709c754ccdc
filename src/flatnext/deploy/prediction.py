"""What a classifier answers about an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flatnext.errors import InputError
from flatnext.runs.conformal import Conformal


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer about one image.

    Args:
        label: the most likely class.
        probability: its probability, from 0 to 1.
        top: the most likely classes with their probabilities, in descending order.
        set: where a coverage was asked for, the classes of which one is the true one with at least that probability,
            the most likely first; else None.
        none: "none of these": `set` is empty, or the probability is below the threshold that was asked for.
    """

    label: str
    probability: float
    top: tuple[tuple[str, float], ...]
    set: tuple[str, ...] | None = None
    none: bool = False


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked about each image. Raises `InputError` for a value outside its range.

    `top`: how many of the classes to give; `coverage`: that of the set; `threshold`: the least probability of an
    answer.
    """

    top: int = 1
    coverage: float | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.top < 1:
            raise InputError(f"top is {self.top}: give at least 1")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise InputError(f"threshold is {self.threshold}: give a probability from 0 to 1")
        if self.coverage is not None:
            Conformal.fewest_images(self.coverage)

    def answers(
        self, probabilities: np.ndarray, classes: Sequence[str], conformal: Conformal | None
    ) -> list[Prediction]:
        """Return the answer for each row of probabilities (N x classes). `InputError`: there is no set to give."""
        order = np.argsort(-probabilities, axis=1, kind="stable")
        sets = None
        if self.coverage is not None:
            assert conformal is not None  # the classifier has checked it
            sets = conformal.sets(probabilities, self.coverage)
        return [
            self._answer(row, places, classes, None if sets is None else sets[index])
            for index, (row, places) in enumerate(zip(probabilities, order, strict=True))
        ]

    def _answer(
        self, row: np.ndarray, order: np.ndarray, classes: Sequence[str], members: np.ndarray | None
    ) -> Prediction:
        top = tuple((classes[place], float(row[place])) for place in order[: self.top])
        chosen = None if members is None else tuple(classes[place] for place in order if members[place])
        label, probability = top[0]
        unlikely = self.threshold is not None and probability < self.threshold
        return Prediction(label=label, probability=probability, top=top, set=chosen, none=unlikely or chosen == ())
