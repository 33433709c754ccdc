"""Sets of classes that hold the true one with a promised probability: split conformal prediction.

The method is that of Vovk et al. (2005), with the score of Sadinle et al. (arXiv 1609.00451).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from flatnext.errors import InputError
from flatnext.words import counted

MOST_SCORES = 1000
"""Scores that are kept: of more images every so many."""

STEP = 1_000_000
"""Scores are rounded up to one part in so many."""

NEEDED = "calibrate the model with flatnext calibrate MODEL --test-set FOLDER (images that it was not trained on)"


@dataclass(frozen=True, kw_only=True)
class Conformal:
    """What a model's answers need to keep a promise: a temperature, and scores of images that chose nothing.

    A score is 1 - p(true class), of probabilities after the temperature. The images chose neither the epoch nor the
    temperature. The promise: if those images and a new one come from the same source in any order (exchangeable), the
    set of `sets` holds the new one's class with at least the probability `coverage`, on average over all of them. It
    says nothing of images of another kind, nor of each class by itself.

    Args:
        temperature: what logits are divided by before the softmax.
        scores: in ascending order, at most `MOST_SCORES`. Of `images` scores, the i-th of m kept ones is that of rank
            ceil(i x images / m).
        images: how many images were scored.
        source: which images they were, in words.
    """

    temperature: float
    scores: tuple[float, ...]
    images: int
    source: str

    def __post_init__(self) -> None:
        """Check the values."""
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise InputError(f"temperature is {self.temperature}: give a number above 0")
        if self.images < 1 or len(self.scores) != min(self.images, MOST_SCORES):
            raise InputError(f"there are {len(self.scores)} scores of {self.images} images: calibrate the model again")
        if list(self.scores) != sorted(self.scores) or not 0 <= self.scores[0] <= self.scores[-1] <= 1:
            raise InputError("scores are not sorted, or outside 0 to 1: calibrate the model again")

    @classmethod
    def of(cls, scores: Iterable[float], *, temperature: float, source: str) -> Conformal:
        """Return what to keep of all scores, in any order. Rounding and thinning only make sets larger."""
        ranked = sorted(min(math.ceil(float(score) * STEP) / STEP, 1.0) for score in scores)
        if not ranked:
            raise InputError("there are no images to calibrate the model on: give at least one")
        kept = min(len(ranked), MOST_SCORES)
        ranks = (-(-place * len(ranked) // kept) for place in range(1, kept + 1))
        return cls(
            temperature=temperature,
            scores=tuple(ranked[rank - 1] for rank in ranks),
            images=len(ranked),
            source=source,
        )

    def threshold(self, coverage: float) -> float:
        """Return the largest score of a class in the set: the one of rank ceil((images + 1) x coverage), or above it.

        `InputError`: there are fewer images than `fewest_images(coverage)`.
        """
        fewest = self.fewest_images(coverage)
        if self.images < fewest:
            raise InputError(
                f"coverage is {coverage}: it needs {counted(fewest, 'calibration image')}, and there are "
                f"{self.images:,} ({self.source}): give at most {self._largest_coverage()}, or {NEEDED}"
            )
        rank = math.ceil((self.images + 1) * _exact(coverage))
        return self.scores[(rank - 1) * len(self.scores) // self.images]

    def sets(self, probabilities: Any, coverage: float) -> Any:
        """Return which classes are in the set of each image (bool, N x K), given probabilities (float, N x K).

        They are those after the temperature, as an array of NumPy or a tensor. A set may be empty: no class is likely
        enough, so "none of these". `InputError` as of `threshold`.
        """
        return 1 - probabilities <= self.threshold(coverage)

    @staticmethod
    def fewest_images(coverage: float) -> int:
        """Return how many calibration images a coverage needs: 19 for 0.95. `InputError`: it is not between 0 and 1."""
        if not 0 < coverage < 1:
            raise InputError(f"coverage is {coverage}: give a number above 0 and below 1, such as 0.95")
        exact = _exact(coverage)
        return math.ceil(exact / (1 - exact))

    def _largest_coverage(self) -> str:
        return f"{math.floor(1000 * self.images / (self.images + 1)) / 1000:g}"


def _exact(coverage: float) -> Fraction:
    """Return the decimal number that was meant: a product with the binary one may be a rank too high."""
    return Fraction(str(float(coverage)))
