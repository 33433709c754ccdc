"""The random numbers of an epoch: the order of the images, and how each is augmented and mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from flatnext import config
from flatnext.data.mixing import Mixture, draw_mixtures
from flatnext.data.policies import Operations, draw_operations
from flatnext.seeds import mix

FLIP_STREAM, AUGMENT_STREAM, MIX_STREAM = 1, 2, 3  # of random numbers, beside the epoch's own


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What is drawn for the N images of an epoch, in the order in which they are shown, and for its batches."""

    order: Tensor
    """The images' places in the split (int64, N)."""
    offsets: Tensor
    """Top and left of the crops (int64, N x 2)."""
    mirrored: Tensor
    """Which images are flipped (bool, N)."""
    centres: Tensor
    """Row and column of the centres of cutout's squares (int64, N x 2)."""
    operations: Operations | None
    """Those of TrivialAugment or RandAugment."""
    mixtures: Sequence[Mixture] | None
    """That of each batch, with mixup or CutMix."""

    def to(self, device: torch.device) -> Draws:
        """Return them on the device of the images."""
        parts = {name: part.to(device) for name, part in vars(self).items() if hasattr(part, "to")}
        return replace(self, **parts)


def draw_epoch(
    settings: config.Data, *, seed: int, epoch: int, count: int, steps: int, size: torch.Size, padding: int
) -> Draws:
    """Draw an epoch of `steps` batches from `count` images of `size`, height and width, on the CPU.

    `padding` is the crop's at this size. Order, crop, flip and cutout are drawn whether they are in use or not, so that
    switching one on or off changes none of the others. Everything depends on (`seed`, `epoch`) alone.
    """
    generator = torch.Generator().manual_seed(mix(seed, epoch))
    height, width = size
    order = torch.randperm(count, generator=generator)
    offsets = torch.randint(2 * padding + 1, (count, 2), generator=generator)
    mirrored = torch.randint(2, (count,), generator=generator).bool()
    if settings.flip == "alternating":
        mirrored = _mirrored_first(seed, count)[order] ^ bool(epoch % 2)
    rows = torch.randint(height, (count,), generator=generator)
    columns = torch.randint(width, (count,), generator=generator)
    return Draws(
        order=order,
        offsets=offsets,
        mirrored=mirrored,
        centres=torch.stack([rows, columns], dim=1),
        operations=_draw_operations(settings, seed, epoch, count, size),
        mixtures=_draw_mixtures(settings, seed, epoch, steps),
    )


def _mirrored_first(seed: int, count: int) -> Tensor:
    """Return for each image of the split whether alternating flips mirror it in the first epoch (bool, N)."""
    generator = torch.Generator().manual_seed(mix(seed, 0, FLIP_STREAM))
    return torch.randint(2, (count,), generator=generator).bool()


def _draw_operations(settings: config.Data, seed: int, epoch: int, count: int, size: torch.Size) -> Operations | None:
    if settings.augment == "none":
        return None
    generator = torch.Generator().manual_seed(mix(seed, epoch, AUGMENT_STREAM))
    return draw_operations(settings.augment, count, size[0], size[1], generator)


def _draw_mixtures(settings: config.Data, seed: int, epoch: int, steps: int) -> Sequence[Mixture] | None:
    if not (settings.mixup or settings.cutmix):
        return None
    generator = np.random.default_rng(mix(seed, epoch, MIX_STREAM))
    return draw_mixtures(steps, settings.mixup, settings.cutmix, generator)
