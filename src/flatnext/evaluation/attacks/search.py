"""What attacks share: their form, their draws, and the record of what they found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from flatnext.evaluation.attacks.ball import Ball
from flatnext.evaluation.attacks.target import Target


@dataclass(frozen=True, eq=False)
class Outcome:
    """For each image the one found (B x 3 x H x W, in [0, 1]) and whether it is misclassified (bool, B).

    Where it is not, the image is that of the highest loss.
    """

    images: Tensor
    fooled: Tensor


class Attack(Protocol):
    """An attack: looks in the ball around each of `images` (in [0, 1], on the target's device) for a misclassified one.

    An image counts as fooled as soon as one point that was looked at is misclassified, and costs no more passes then.
    """

    @property
    def name(self) -> str:
        """The attack's name, such as `pgd`."""
        ...

    def passes(self) -> tuple[int, int]:
        """Return how often at most an image goes forward and backward through the model."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a dict that `json` can write."""
        ...

    def __call__(self, target: Target, images: Tensor, labels: Tensor, ball: Ball, draws: Draws) -> Outcome:
        """Attack `images` (B x 3 x H x W) whose true classes are `labels` (B)."""
        ...


class Draws:
    """Random numbers that belong to the image: its draws do not depend on the batch or on what became of others."""

    def __init__(self, seed: int, indices: Sequence[int], stream: int = 0) -> None:
        """Take the seed, the index of each image in the data, and a number for the attack."""
        states = (np.random.SeedSequence([seed, stream, index]).generate_state(1)[0] for index in indices)
        self._generators = [torch.Generator().manual_seed(int(state)) for state in states]

    def uniform(self, which: Tensor, *shape: int) -> Tensor:
        """Return float32 values in [0, 1), `shape` for each of the images `which` (int64), on the device of `which`."""
        rows = [torch.rand(shape, generator=self._generators[i]) for i in which.tolist()]
        return torch.stack(rows).to(which.device)


class Search:
    """The best of what was looked at so far, an image each, and which images still stand."""

    def __init__(self, clean: Tensor, labels: Tensor) -> None:
        self.clean, self.labels = clean, labels
        self.images = clean.clone()
        self.fooled = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
        self.loss = torch.full((len(clean),), -torch.inf, dtype=clean.dtype, device=clean.device)

    @property
    def standing(self) -> Tensor:
        """The images not fooled yet (int64)."""
        return (~self.fooled).nonzero().flatten()

    def record(self, which: Tensor, images: Tensor, logits: Tensor, losses: Tensor) -> Tensor:
        """Take note of `images` of the standing images `which`; return which of them still stand (bool).

        A misclassified image stays, else the one of highest loss. Logits that are not finite fool nobody.
        """
        fools = (logits.argmax(dim=1) != self.labels[which]) & logits.isfinite().all(dim=1)
        better = fools | (losses > self.loss[which])
        self.images[which[better]] = images[better]
        self.loss[which[better]] = losses[better]
        self.fooled[which[fools]] = True
        return ~fools

    def outcome(self) -> Outcome:
        """Return what was found."""
        return Outcome(self.images, self.fooled)
