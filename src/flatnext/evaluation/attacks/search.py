"""What all attacks share: their interface, their random numbers, and the best images found so far."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flatnext.errors import InputError
from flatnext.evaluation.attacks.attacked_model import AttackedModel
from flatnext.evaluation.attacks.ball import Ball


@dataclass(frozen=True, eq=False)
class Outcome:
    """For each image the one found (B x 3 x H x W, in [0, 1]) and whether it is misclassified (bool, B).

    Where it is not, the image is that of the highest loss.
    """

    images: Tensor
    fooled: Tensor


class Attack(ABC):
    """An attack looks in the ball around each of `images` (in [0, 1], on the model's device) for a misclassified one.

    An image counts as fooled as soon as one point that was looked at is misclassified, and costs no more passes then.
    Its settings are the fields of a frozen dataclass.
    """

    name: str
    """The attack's name, such as `pgd`."""

    @abstractmethod
    def __call__(self, model: AttackedModel, images: Tensor, labels: Tensor, ball: Ball, draws: Draws) -> Outcome:
        """Attack `images` (B x 3 x H x W) whose true classes are `labels` (B)."""


class Draws:
    """Random numbers for each image, which depend neither on its batch nor on what became of other images."""

    def __init__(self, seed: int, indices: Sequence[int], stream: int = 0) -> None:
        """Take the seed, the index of each image in the data, and a number for the attack."""
        states = (np.random.SeedSequence([seed, stream, index]).generate_state(1)[0] for index in indices)
        self._generators = [torch.Generator().manual_seed(int(state)) for state in states]

    def uniform(self, index: Tensor, *shape: int) -> Tensor:
        """Return float32 values in [0, 1), `shape` for each image of `index` (int64), on the device of `index`."""
        rows = [torch.rand(shape, generator=self._generators[i]) for i in index.tolist()]
        return torch.stack(rows).to(index.device)

    def point(self, index: Tensor, images: Tensor) -> Tensor:
        """Return what `Ball.inside` and `Ball.border` need for the images of `index`, in the type of `images`."""
        return self.uniform(index, 1 + images[0].numel()).to(images.dtype)


class Search:
    """The best point looked at so far for each image, and which images are not fooled yet."""

    def __init__(self, clean: Tensor, labels: Tensor) -> None:
        self.clean, self.labels = clean, labels
        self.images = clean.clone()
        self.fooled = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
        self.loss = torch.full((len(clean),), -torch.inf, dtype=clean.dtype, device=clean.device)

    @property
    def remaining(self) -> Tensor:
        """The images not fooled yet (int64)."""
        return (~self.fooled).nonzero().flatten()

    def record(self, index: Tensor, images: Tensor, logits: Tensor, losses: Tensor) -> Tensor:
        """Take note of points `images` for the remaining images `index`; return which of them still remain (bool).

        A misclassified point is kept, else the one of highest loss. Logits that are not finite fool nobody.
        """
        fools = (logits.argmax(dim=1) != self.labels[index]) & logits.isfinite().all(dim=1)
        better = fools | (losses > self.loss[index])
        self.images[index[better]] = images[better]
        self.loss[index[better]] = losses[better]
        self.fooled[index[fools]] = True
        return ~fools

    def outcome(self) -> Outcome:
        """Return what was found."""
        return Outcome(self.images, self.fooled)


def at_least_one(**settings: int) -> None:
    """Raise `InputError` for a setting below 1."""
    for name, value in settings.items():
        if value < 1:
            raise InputError(f"{name} is {value}: give at least 1")
