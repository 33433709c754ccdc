"""Accuracy under corruption: by corruption and severity, and on average."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from flatnext.errors import InputError
from flatnext.evaluation.corruptions.published import Cifar10C
from flatnext.evaluation.corruptions.table import NAMES, SEVERITIES, check_images, check_name, check_severity, corrupt
from flatnext.evaluation.metrics import is_correct
from flatnext.progress import Progress, silent
from flatnext.runs.evidence import CorruptionScores
from flatnext.words import counted

Predict = Callable[[Tensor], Tensor]
"""From images (uint8, B x 3 x H x W) to logits (B x classes), on any device: a `Predictor`, for instance."""

Cell = tuple[str, int] | None
"""A corruption and its severity; None for the images as they are."""


def evaluate_corruptions(
    predict: Predict,
    images: Tensor,
    labels: Tensor,
    *,
    names: Sequence[str] = NAMES,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    batch_size: int = 500,
    progress: Progress = silent,
) -> CorruptionScores:
    """Return the accuracy on the images as they are and under each corruption, generated as `corrupt` does it.

    It takes (1 + corruptions x severities) forward passes an image: 76 with all. The corrupting itself took 30 ms an
    image, all 75 together, on one core.

    Args:
        predict: from uint8 images to logits, such as a `Predictor`.
        images: uint8, N x 3 x H x W, at least 8 pixels a side.
        labels: int64, N.
        names: corruptions, of `NAMES`.
        severities: of 1 to 5.
        seed: of the corruptions' random numbers, 0 or more.
        batch_size: images a call of `predict`; the scores do not depend on it.
        progress: called with the number of images done and of all, after each batch.

    Raises:
        InputError: one of these is something else, or `predict` returns no logits.
    """
    check_images(images)
    cells = _cells(names, severities)

    def batch(cell: Cell, start: int, stop: int) -> Tensor:
        clean = images[start:stop]
        return clean if cell is None else corrupt(clean, *cell, seed, first=start)

    accuracy = _accuracy(predict, batch, labels, [None, *cells], len(images), batch_size, progress)
    return CorruptionScores(
        accuracy=_by_name(accuracy, names, severities),
        severities=tuple(severities),
        count=len(images),
        source="generated",
        seed=seed,
        clean=accuracy[None],
    )


def evaluate_cifar10_c(
    predict: Predict,
    published: Cifar10C,
    *,
    severities: Sequence[int] = SEVERITIES,
    limit: int | None = None,
    batch_size: int = 500,
    progress: Progress = silent,
) -> CorruptionScores:
    """Return the accuracy on the published images, of each corruption and severity the first `limit` (None: all).

    It takes one forward pass an image: 75 times `limit`, or 750,000, with all. Other arguments and errors are as for
    `evaluate_corruptions`.
    """
    count = len(published.labels)
    if limit is not None and not 1 <= limit <= count:
        raise InputError(f"limit is {limit}: give 1 to {count}")
    names = tuple(published.files)
    cells = _cells(names, severities)

    def batch(cell: Cell, start: int, stop: int) -> Tensor:
        assert cell is not None
        return published.images(*cell, start, stop)

    labels = published.labels[: limit or count]
    accuracy = _accuracy(predict, batch, labels, cells, len(labels), batch_size, progress)
    return CorruptionScores(
        accuracy=_by_name(accuracy, names, severities),
        severities=tuple(severities),
        count=len(labels),
        source="published",
        seed=None,
        clean=None,
    )


def _cells(names: Sequence[str], severities: Sequence[int]) -> list[tuple[str, int]]:
    """Return all cells to measure; raise `InputError` for none, for one twice, and for one that does not exist."""
    for setting, values in (("names", names), ("severities", severities)):
        if len(values) == 0 or len(set(values)) < len(values):
            raise InputError(f"{setting} are {list(values)}: give at least one, each once")
    for name in names:
        check_name(name)
    for severity in severities:
        check_severity(severity)
    return [(name, severity) for name in names for severity in severities]


def _accuracy(
    predict: Predict,
    batch: Callable[[Cell, int, int], Tensor],
    labels: Tensor,
    cells: Sequence[Cell],
    count: int,
    batch_size: int,
    progress: Progress,
) -> dict[Cell, float]:
    """Return the accuracy in each cell; `batch` makes its images from a first to before a last."""
    if labels.shape != (count,) or labels.dtype != torch.int64:
        raise InputError(f"labels are {labels.dtype} {tuple(labels.shape)}: give torch.int64, ({count},)")
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}: give at least 1")
    labels = labels.cpu()
    accuracy = {}
    for number, cell in enumerate(cells):
        correct = 0
        for start in range(0, count, batch_size):
            targets = labels[start : start + batch_size]
            logits = predict(batch(cell, start, start + len(targets))).detach().cpu()
            if logits.ndim != 2 or len(logits) != len(targets):
                given = counted(len(targets), "image")
                raise InputError(f"predict returned {tuple(logits.shape)} for {given}: return logits")
            correct += int(is_correct(logits, targets).sum())
            progress(number * count + start + len(targets), len(cells) * count)
        accuracy[cell] = correct / count
    return accuracy


def _by_name(
    accuracy: dict[Cell, float], names: Sequence[str], severities: Sequence[int]
) -> dict[str, tuple[float, ...]]:
    return {name: tuple(accuracy[name, severity] for severity in severities) for name in names}
