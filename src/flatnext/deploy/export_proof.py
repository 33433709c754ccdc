"""The proof of an export: its answers beside those of the trained network, on real images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flatnext.data import Split
from flatnext.deploy.manifest import Golden
from flatnext.errors import InputError
from flatnext.words import counted

Logits = Callable[[np.ndarray], np.ndarray]
"""From images (uint8, N x C x H x W) to logits (float32, N x K)."""

MOST_DIFFERENCE = 1e-3
"""By how much a logit of an export in float32 may differ."""

TIE = 1e-4
"""Two logits of the trained network that are so close are a tie, of which either class may win."""

MAX_LOSS = 0.3
"""Percentage points of accuracy that an export in eight bits may lose."""

GOLDEN = 3

ROUNDING = 1e-12  # of the product of a limit and a number of images

PIXELS = 100 * 32 * 32
"""Pixels of images that the network gets at a time: of CIFAR's 100 images, of large ones fewer."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was measured of an export, beside the trained network in float32, on the same images.

    Args:
        source: which images, in words.
        images: how many.
        difference: the largest of a logit.
        agreement: how many images get the same class.
        changed: how many get another class where the trained network's two logits are no tie.
        before: the accuracy of the trained network, a fraction.
        after: that of the export.
    """

    source: str
    images: int
    difference: float
    agreement: int
    changed: int
    before: float
    after: float

    @property
    def loss(self) -> float:
        """The accuracy lost, in percentage points."""
        return 100 * (self.before - self.after)

    def lines(self) -> list[str]:
        """Return the proof in words."""
        return [
            f"proof: {self.images:,} {self.source}: largest difference of a logit {self.difference:.2g}, the same "
            f"class for {self.agreement:,} of {self.images:,}",
            f"accuracy {self.before:.2%} as trained (fp32), {self.after:.2%} exported",
        ]


def prove(trained: np.ndarray, logits: np.ndarray, labels: np.ndarray, source: str) -> Proof:
    """Return what an export's logits (N x K) for images with labels (N) are, beside those of the trained network."""
    if logits.shape != trained.shape:
        raise InputError(f"the export gives {logits.shape} logits instead of {trained.shape}: please report it")
    before, after = trained.argmax(axis=1), logits.argmax(axis=1)
    rows = np.arange(len(labels))
    margin = trained[rows, before] - trained[rows, after]
    return Proof(
        source=source,
        images=len(labels),
        difference=float(np.abs(logits - trained).max()) if np.isfinite(logits).all() else float("inf"),
        agreement=int((before == after).sum()),
        changed=int(((before != after) & (margin > TIE)).sum()),
        before=float((before == labels).mean()),
        after=float((after == labels).mean()),
    )


def require_faithful(proof: Proof, what: str) -> None:
    """Raise `InputError` for an export in float32 that does not answer as the trained network does."""
    if proof.difference > MOST_DIFFERENCE or proof.changed:
        raise InputError(
            f"{what} is refused: on {proof.images:,} {proof.source} a logit differs by {proof.difference:.2g} (at most "
            f"{MOST_DIFFERENCE} may be) and {proof.changed} get another class: export in another form, and report it"
        )


def require_accurate(proof: Proof, max_loss: float, what: str) -> None:
    """Raise `InputError` for an export in eight bits that loses more accuracy than `max_loss` percentage points.

    Of few images a single one may be more than that: then the message says what can be done about it.
    """
    lost = round(proof.images * (proof.before - proof.after))
    # In images and not in fractions, which are rounded: so many points are that many images.
    if 100 * lost <= max_loss * proof.images * (1 + ROUNDING) and np.isfinite(proof.difference):
        return
    remedy = f"export it in float32 (--to onnx), or allow more (--max-loss, now {max_loss:g})"
    image = 100 / proof.images
    if 0 < max_loss < image and np.isfinite(proof.difference):
        remedy = (
            f"with so few, one image is {image:.2g} points: prove it on {math.ceil(100 / max_loss):,} or more "
            "(--test-set with twice as many, as half of them calibrate), allow that much (--max-loss "
            f"{math.ceil(100 * proof.loss) / 100:g}), or export it in float32 (--to onnx)"
        )
    raise InputError(
        f"{what} is refused: on {proof.images:,} {proof.source} it has {proof.after:.2%} instead of "
        f"{proof.before:.2%}, {proof.loss:.2f} points less: {remedy}"
    )


def in_batches(logits: Logits, images: Tensor) -> np.ndarray:
    """Return the logits of uint8 images, some at a time."""
    return np.concatenate([logits(batch.contiguous().numpy()) for batch in images.cpu().split(batch_size(images))])


def batch_size(images: Tensor | np.ndarray) -> int:
    """Return how many of the images (N x C x H x W) a network gets at a time."""
    return max(1, min(100, PIXELS // (images.shape[2] * images.shape[3])))


def evenly(images: Split, count: int) -> Split:
    """Return `count` images of a split, taken at equal distances, so that all classes are among them; or all."""
    if count >= len(images):
        return images
    return images.select(torch.arange(count) * len(images) // count)


def golden_images(exported: Logits, images: Split) -> tuple[Golden, ...]:
    """Return golden images with the export's logits: of different classes, as far as there are some.

    `InputError`: there are fewer than three images.
    """
    if len(images) < GOLDEN:
        raise InputError(f"the test has {counted(len(images), 'image')}: give at least {GOLDEN} to prove the export")
    labels = images.labels.tolist()
    first = sorted({label: index for index, label in reversed(list(enumerate(labels)))}.values())
    chosen = [*first, *(index for index in range(len(labels)) if index not in first)][:GOLDEN]
    pixels = images.images[chosen].cpu().contiguous().numpy()
    return tuple(Golden.of(*pair) for pair in zip(pixels, exported(pixels), strict=True))
