"""Mixup and CutMix: mixtures of two images, with the mixture of their labels as target."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """How the images of a batch are mixed, each with a partner.

    `share` is that of the image itself. With CutMix `centre` (row and column as fractions of the sides) is where the
    partner's rectangle is put, and the true share depends on how much of it the border cuts off. Mixup has no centre.
    """

    share: float
    centre: tuple[float, float] | None = None


def draw_mixtures(steps: int, mixup: float, cutmix: float, generator: np.random.Generator) -> list[Mixture]:
    """Draw the mixture of each step: the share from Beta(alpha, alpha), and with both alphas the kind by a fair coin.

    `mixup` and `cutmix` are the alphas, 0 for none; one is not 0. Mixup is arXiv 1710.09412, CutMix 1905.04899; one
    share a batch and the coin are as in timm. Switching one kind on or off does not change the shares of the other.
    """
    coins = generator.random(steps) < 0.5
    centres = generator.random((steps, 2))
    own = generator.spawn(2)  # a beta number takes as many others as it happens to need
    mixed, cut = (g.beta(alpha or 1.0, alpha or 1.0, steps) for g, alpha in zip(own, (mixup, cutmix), strict=True))
    cuts = coins if mixup and cutmix else np.full(steps, bool(cutmix))
    return [
        Mixture(float(cut[i]), (float(centres[i, 0]), float(centres[i, 1]))) if cuts[i] else Mixture(float(mixed[i]))
        for i in range(steps)
    ]


def mix_images(images: Tensor, partners: Tensor, mixture: Mixture) -> tuple[Tensor, float]:
    """Return the mixed images (floats, B x C x H x W) and the share that each image itself has in its mixture."""
    if mixture.centre is None:
        return images * mixture.share + partners * (1 - mixture.share), mixture.share
    height, width = images.shape[2:]
    top, bottom, left, right = rectangle(mixture, height, width)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def rectangle(mixture: Mixture, height: int, width: int) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of CutMix's rectangle in pixels, clipped at the border."""
    assert mixture.centre is not None
    part = math.sqrt(1 - mixture.share)
    ends = []
    for place, length in zip(mixture.centre, (height, width), strict=True):
        middle, side = int(place * length), int(part * length)
        ends += [max(middle - side // 2, 0), min(middle + side // 2, length)]
    return ends[0], ends[1], ends[2], ends[3]


def mix_labels(labels: Tensor, partners: Tensor, share: float, classes: int, dtype: torch.dtype) -> Tensor:
    """Return targets (B x classes, rows adding up to 1): `share` for the image's own label, the rest for the other."""
    targets = torch.zeros(len(labels), classes, dtype=dtype, device=labels.device)
    targets.scatter_(1, labels[:, None], share)
    rest = torch.full((len(labels), 1), 1 - share, dtype=dtype, device=labels.device)
    return targets.scatter_add_(1, partners[:, None], rest)
