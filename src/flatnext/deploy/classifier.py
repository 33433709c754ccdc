"""A trained model that answers about pictures, whatever form it and they have. A model in ONNX needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from flatnext.deploy.picture_paths import Source
from flatnext.deploy.pixels import Preprocessing
from flatnext.deploy.prediction import Prediction, Question
from flatnext.errors import InputError
from flatnext.pictures import PictureError
from flatnext.runs.conformal import NEEDED, Conformal

BATCH_SIZE = 100
"""Images that are in memory at a time."""

READERS = 4
"""Threads that decode files: Pillow lets others work meanwhile."""

Answered = tuple[Source, Prediction | PictureError]
"""A file with its answer, or with the reason why it cannot be read."""

Logits = Callable[[np.ndarray], np.ndarray]
"""From images (uint8, N x C x H x W) to logits (float, N x classes)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """A trained model with all that its use needs; `flatnext.load` makes it.

    Args:
        source: the file of its weights.
        classes: `classes[i]` is the name of logit i.
        preprocessing: what becomes of an image before the model.
        temperature: what the logits are divided by before the softmax; 1 where the file says nothing.
        conformal: the calibration of sets with a guaranteed coverage, None where there is none.
        logits: the model itself.

    Example::

        classifier = flatnext.load("runs/mine")
        for prediction in classifier.predict(["cat.jpg", "dog.png"], coverage=0.95):
            print(prediction.label, prediction.probability, prediction.set)
    """

    source: Path
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    temperature: float = 1.0
    conformal: Conformal | None = None
    logits: Logits

    def predict(
        self,
        images: Any,
        *,
        top: int = 5,
        coverage: float | None = None,
        threshold: float | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> list[Prediction]:
        """Return the answer about each image, in order.

        Args:
            images: a path, a Pillow image, a uint8 array (H x W, H x W x C or N x H x W x C), a uint8 tensor (C x H x W
                or N x C x H x W), or a list of them, of any size; C is 1, 3 or 4. All are prepared as in training.
            top: how many of the most likely classes to give.
            coverage: the probability with which the set of classes shall hold the true one, such as 0.95.
            threshold: the least probability of an answer: below it is "none of these".
            batch_size: how many images are read, and given to the model, at a time.

        Raises:
            InputError: an image is none of these or cannot be read, or the model has no calibration for the coverage.
        """
        question = self.ask(top=top, coverage=coverage, threshold=threshold)
        pixels = self.preprocessing.every(images)
        return [
            answer
            for batch in chunks(pixels, batch_size)
            for answer in question.answers(self.probabilities(np.stack(batch)), self.classes, self.conformal)
        ]

    def predict_files(
        self, sources: Iterable[Source], question: Question, batch_size: int = BATCH_SIZE
    ) -> Iterator[Answered]:
        """Yield each file with the answer about its image, or with the reason why it cannot be read, in order.

        However many files there are, the pixels of `batch_size` are in memory.
        """
        with ThreadPoolExecutor(READERS) as pool:
            for batch in chunks(iter(sources), batch_size):
                read = list(pool.map(self._read, batch))
                pixels = [image for image in read if isinstance(image, np.ndarray)]
                rows = self.probabilities(np.stack(pixels)) if pixels else np.empty((0, len(self.classes)))
                answers = iter(question.answers(rows, self.classes, self.conformal))
                for source, image in zip(batch, read, strict=True):
                    yield source, image if isinstance(image, PictureError) else next(answers)

    def ask(self, *, top: int = 1, coverage: float | None = None, threshold: float | None = None) -> Question:
        """Return the question. `InputError`: a value is outside its range, or the model cannot keep the coverage."""
        question = Question(top=min(top, len(self.classes)), coverage=coverage, threshold=threshold)
        if coverage is not None:
            if self.conformal is None:
                raise InputError(f"{self.source} has no calibration to keep a coverage of {coverage}: {NEEDED}")
            self.conformal.threshold(coverage)
        return question

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities (float64, N x classes) of prepared images (uint8, N x C x H x W).

        `InputError`: an output of the model is not finite.
        """
        return softmax(self.logits(images), self.temperature, self.source)

    def _read(self, source: Source) -> np.ndarray | PictureError:
        try:
            return self.preprocessing.read(source)
        except PictureError as error:
            return error


def softmax(logits: np.ndarray, temperature: float, source: Path) -> np.ndarray:
    """Return the softmax (float64, N x classes) of logits over a temperature. `InputError`: one is not finite."""
    logits = logits.astype(np.float64)
    if not np.isfinite(logits).all():
        raise InputError(f"{source}: an output is not finite: the training diverged; choose another checkpoint")
    powers = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Yield the items in lists of `size`, the last of which may be shorter. `InputError`: `size` is below 1."""
    if size < 1:
        raise InputError(f"batch_size is {size}: give at least 1")
    while chunk := list(islice(items, size)):
        yield chunk
