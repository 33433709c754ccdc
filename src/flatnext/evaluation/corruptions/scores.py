"""Accuracy under corruption: by corruption and severity, and on average."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from flatnext.errors import InputError
from flatnext.evaluation.corruptions.published import Cifar10C
from flatnext.evaluation.corruptions.table import NAMES, SEVERITIES, check_images, check_name, check_severity, corrupt

Predict = Callable[[Tensor], Tensor]
"""From images (uint8, B x 3 x H x W) to logits (B x classes), on any device."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class CorruptionScores:
    """Accuracy, as a fraction of `count` images, on each corruption at each of `severities`, in their order.

    `source` says whether the images were `generated`, by `seed`, or are the `published` ones; `clean` is the accuracy
    on the images as they were, where they are known.
    """

    accuracy: Mapping[str, tuple[float, ...]]
    severities: tuple[int, ...]
    count: int
    source: str
    seed: int | None = None
    clean: float | None = None

    @property
    def by_corruption(self) -> dict[str, float]:
        """Mean accuracy over the severities, by corruption."""
        return {name: fmean(values) for name, values in self.accuracy.items()}

    @property
    def by_severity(self) -> tuple[float, ...]:
        """Mean accuracy over the corruptions, in the order of `severities`."""
        return tuple(map(fmean, zip(*self.accuracy.values(), strict=True)))

    @property
    def mean(self) -> float:
        """Mean accuracy over all corruptions and severities: the mean corruption accuracy."""
        return fmean(self.by_corruption.values())

    def to_json(self) -> dict[str, Any]:
        """Return the scores and their means as a dict that `json` can write."""
        return {
            "source": self.source,
            "seed": self.seed,
            "count": self.count,
            "clean": self.clean,
            "mean": self.mean,
            "severities": list(self.severities),
            "by_severity": list(self.by_severity),
            "by_corruption": self.by_corruption,
            "accuracy": {name: list(values) for name, values in self.accuracy.items()},
        }


def evaluate_corruptions(
    predict: Predict,
    images: Tensor,
    labels: Tensor,
    *,
    names: Sequence[str] = NAMES,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    batch_size: int = 500,
    progress: Progress | None = None,
) -> CorruptionScores:
    """Return the accuracy on the images as they are and under each corruption, generated as `corrupt` does it.

    It takes (1 + corruptions x severities) forward passes an image: 76 with all. The corrupting itself took 30 ms an
    image, all 75 together, on one core.

    Args:
        predict: from uint8 images to logits; normalising is its affair, and so are the model's mode and device.
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
    plan = _plan(names, severities)

    def part(cell: tuple[str, int] | None, start: int, stop: int) -> Tensor:
        chosen = images[start:stop]
        return chosen if cell is None else corrupt(chosen, *cell, seed, first=start)

    accuracy = _accuracy(predict, part, labels, [None, *plan], len(images), batch_size, progress)
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
    progress: Progress | None = None,
) -> CorruptionScores:
    """Return the accuracy on the published images, of each corruption and severity the first `limit` (None: all).

    It takes one forward pass an image: 75 times `limit`, or 750,000, with all. Other arguments and errors are as for
    `evaluate_corruptions`.
    """
    count = len(published.labels)
    if limit is not None and not 1 <= limit <= count:
        raise InputError(f"limit is {limit}: give 1 to {count}")
    names = tuple(published.files)
    plan = _plan(names, severities)

    def part(cell: tuple[str, int] | None, start: int, stop: int) -> Tensor:
        assert cell is not None
        return published.images(*cell, start, stop)

    chosen = published.labels[: limit or count]
    accuracy = _accuracy(predict, part, chosen, plan, len(chosen), batch_size, progress)
    return CorruptionScores(
        accuracy=_by_name(accuracy, names, severities),
        severities=tuple(severities),
        count=len(chosen),
        source="published",
    )


def _plan(names: Sequence[str], severities: Sequence[int]) -> list[tuple[str, int]]:
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
    part: Callable[[tuple[str, int] | None, int, int], Tensor],
    labels: Tensor,
    cells: Sequence[tuple[str, int] | None],
    count: int,
    batch_size: int,
    progress: Progress | None,
) -> dict[tuple[str, int] | None, float]:
    if labels.shape != (count,) or labels.dtype != torch.int64:
        raise InputError(f"labels are {labels.dtype} {tuple(labels.shape)}: give torch.int64, ({count},)")
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}: give at least 1")
    labels = labels.cpu()
    found = {}
    for turn, cell in enumerate(cells):
        correct = 0
        for start in range(0, count, batch_size):
            wanted = labels[start : start + batch_size]
            logits = predict(part(cell, start, start + len(wanted))).detach().cpu()
            if logits.ndim != 2 or len(logits) != len(wanted):
                raise InputError(f"predict returned {tuple(logits.shape)} for {len(wanted)} images: return logits")
            correct += int((logits.argmax(dim=1) == wanted).sum())
            if progress is not None:
                progress(turn * count + start + len(wanted), len(cells) * count)
        found[cell] = correct / count
    return found


def _by_name(
    accuracy: Mapping[tuple[str, int] | None, float], names: Sequence[str], severities: Sequence[int]
) -> dict[str, tuple[float, ...]]:
    return {name: tuple(accuracy[name, severity] for severity in severities) for name in names}
