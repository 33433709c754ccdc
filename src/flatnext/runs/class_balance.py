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
    """Return whether balanced accuracy says more of a model than accuracy."""
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


def f1_scores(confusion: Confusion) -> list[float | None]:
    """Return the F1 of each class, as a fraction; None of a class without images.

    It is the harmonic mean of recall (the share of the class's images that was recognised) and precision (the share of
    the predictions of the class that was right): 2 TP / (2 TP + FP + FN).
    """
    predicted = predicted_sizes(confusion)
    return [
        2 * row[index] / (size + predicted[index]) if (size := sum(row)) else None
        for index, row in enumerate(confusion)
    ]


def tells_apart(confusion: Confusion) -> bool:
    """Return whether the balanced accuracy is above that of guessing by two standard errors or more.

    Of a class without errors or without hits, the error is that of one image.
    """
    sizes = [size for size in class_sizes(confusion) if size]
    recalls = [row[index] / sum(row) for index, row in enumerate(confusion) if sum(row)]
    spread = [max(recall * (1 - recall), 1 / size) / size for recall, size in zip(recalls, sizes, strict=True)]
    return balanced_accuracy(confusion) - 2 * sum(spread) ** 0.5 / len(sizes) > 1 / len(sizes)
