"""Two models on the same labelled images: which is more accurate, by how much, where, and whether it may be chance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, norm

from flatnext.study.statistics import ALPHA, holm


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Of `count` images the numbers that each model classifies correctly, and that change.

    `lost`: only the old one classifies them correctly; `gained`: only the new one does. `p` is that of McNemar's exact
    test: how likely the two numbers are at least so uneven if either model is as likely to be the one that is right.
    """

    count: int
    old_correct: int
    new_correct: int
    lost: int
    gained: int

    @classmethod
    def of(cls, old: np.ndarray, new: np.ndarray) -> Changes:
        """Return the changes from which images (bool, N) the old and the new model classify correctly."""
        return cls(
            count=len(old),
            old_correct=int(old.sum()),
            new_correct=int(new.sum()),
            lost=int((old & ~new).sum()),
            gained=int((new & ~old).sum()),
        )

    @property
    def old_accuracy(self) -> float:
        """The old model's accuracy, a fraction."""
        return self.old_correct / self.count

    @property
    def new_accuracy(self) -> float:
        """The new model's accuracy, a fraction."""
        return self.new_correct / self.count

    @property
    def difference(self) -> float:
        """The new model's accuracy less the old one's."""
        return (self.new_correct - self.old_correct) / self.count

    @property
    def p(self) -> float:
        """The p value of McNemar's exact test, two-sided."""
        changed = self.lost + self.gained
        return float(binomtest(self.lost, changed, 0.5).pvalue) if changed else 1.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference: the adjusted Wald interval of Bonett and Price (2012)."""
        count = self.count + 2
        lost, gained = (self.lost + 1) / count, (self.gained + 1) / count
        middle = gained - lost
        half = float(norm.isf(ALPHA / 2)) * math.sqrt((lost + gained - middle**2) / count)
        return max(-1.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, kw_only=True)
class ClassChanges:
    """The changes of the images of one class; `p` is McNemar's after Holm's correction for the number of classes."""

    name: str
    changes: Changes
    p: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on the same images, by name. `label`, `old` and `new` (int, N) index `classes`.

    `old_confidence` and `new_confidence` (float, N) are the probabilities of what each model took the image for.
    `notes` are lines on how they were compared.
    """

    old_name: str
    new_name: str
    images: str
    classes: tuple[str, ...]
    labels: np.ndarray
    old: np.ndarray
    new: np.ndarray
    old_confidence: np.ndarray
    new_confidence: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def changes(self) -> Changes:
        """The changes over all images."""
        return Changes.of(self.old == self.labels, self.new == self.labels)

    def by_class(self) -> list[ClassChanges]:
        """Return the changes of each class that has images, in the order of the classes."""
        members = {index: self.labels == index for index in range(len(self.classes))}
        changes = {
            self.classes[index]: Changes.of((self.old == self.labels)[of_class], (self.new == self.labels)[of_class])
            for index, of_class in members.items()
            if of_class.any()
        }
        adjusted = holm([each.p for each in changes.values()])
        return [
            ClassChanges(name=name, changes=each, p=p)
            for (name, each), p in zip(changes.items(), adjusted, strict=True)
        ]

    def worse_classes(self) -> list[ClassChanges]:
        """Return the classes that the new model recognises less often, the largest loss of images first."""
        worse = [each for each in self.by_class() if each.changes.difference < 0]
        return sorted(worse, key=lambda each: each.changes.new_correct - each.changes.old_correct)

    def lost(self) -> np.ndarray:
        """Return the images (int) that only the old model has right, by the new one's confidence, highest first."""
        return self._ranked((self.old == self.labels) & (self.new != self.labels), self.new_confidence)

    def gained(self) -> np.ndarray:
        """Return the images (int) that only the new model has right, by the old one's confidence, highest first."""
        return self._ranked((self.new == self.labels) & (self.old != self.labels), self.old_confidence)

    def otherwise_wrong(self) -> np.ndarray:
        """Return the images (int) that both have wrong and take for different classes."""
        wrong = (self.old != self.labels) & (self.new != self.labels) & (self.old != self.new)
        return self._ranked(wrong, self.new_confidence)

    @staticmethod
    def _ranked(chosen: np.ndarray, confidence: np.ndarray) -> np.ndarray:
        indices = np.flatnonzero(chosen)
        return indices[np.argsort(-confidence[indices], kind="stable")]
