"""What a confusion matrix says of the classes: how uneven they are, and the accuracies that this makes misleading."""

from __future__ import annotations

from flatnext.runs.scores import Confusion

UNEVEN = 1.5
"""Classes are uneven if the largest has more than so many times the images of the smallest."""


def class_sizes(confusion: Confusion) -> list[int]:
    """Return the number of images of each class."""
    return [sum(row) for row in confusion]


def predicted_sizes(confusion: Confusion) -> list[int]:
    """Return for how many images each class was predicted."""
    return [sum(column) for column in zip(*confusion, strict=True)]


def is_uneven(confusion: Confusion) -> bool:
    """Return whether balanced accuracy is to be shown beside accuracy."""
    sizes = [size for size in class_sizes(confusion) if size]
    return max(sizes) > UNEVEN * min(sizes)


def majority(confusion: Confusion) -> tuple[int, float]:
    """Return the largest class, and the accuracy (a fraction) of always answering it."""
    sizes = class_sizes(confusion)
    return sizes.index(max(sizes)), max(sizes) / sum(sizes)


def balanced_accuracy(confusion: Confusion) -> float:
    """Return the mean over classes of the share of their images that was recognised, as a fraction."""
    recalls = [row[index] / sum(row) for index, row in enumerate(confusion) if sum(row)]
    return sum(recalls) / len(recalls)
