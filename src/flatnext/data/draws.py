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
from flatnext.seeds import AUGMENT_STREAM, FLIP_STREAM, MIX_STREAM, SAMPLE_STREAM, mix


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What is drawn for the N images of an epoch, in the order in which they are shown, and for its batches."""

    order: Tensor
    """The images' places in the split (int64, N): each once, or as `draw_balanced` says."""
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
    settings: config.Data,
    *,
    seed: int,
    epoch: int,
    labels: Tensor,
    steps: int,
    size: tuple[int, int],
    padding: int,
) -> Draws:
    """Draw an epoch of `steps` batches from images of `size` (height, width) with these labels (int64, N), on the CPU.

    `padding` is the crop's at this size. Order, crop, flip and cutout are drawn whether they are in use or not, so that
    switching one on or off changes none of the others. Everything depends on (`seed`, `epoch`) alone.
    """
    generator, count = _generator(seed, epoch), len(labels)
    order = torch.randperm(count, generator=generator)
    if settings.sampler == "balanced":
        order = draw_balanced(labels.cpu(), _generator(seed, epoch, SAMPLE_STREAM))
    offsets = torch.randint(2 * padding + 1, (count, 2), generator=generator)
    mirrored = torch.randint(2, (count,), generator=generator).bool()
    if settings.flip == "alternating":
        first = torch.randint(2, (count,), generator=_generator(seed, 0, FLIP_STREAM)).bool()  # in the first epoch
        mirrored = first[order] ^ bool(epoch % 2)
    centres = torch.stack([torch.randint(side, (count,), generator=generator) for side in size], dim=1)
    operations = mixtures = None
    if settings.augment != "none":
        operations = draw_operations(settings.augment, count, *size, _generator(seed, epoch, AUGMENT_STREAM))
    if settings.mixup or settings.cutmix:
        numbers = np.random.default_rng(mix(seed, epoch, MIX_STREAM))
        mixtures = draw_mixtures(steps, settings.mixup, settings.cutmix, numbers)
    return Draws(
        order=order, offsets=offsets, mirrored=mirrored, centres=centres, operations=operations, mixtures=mixtures
    )


def draw_balanced(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw as many images as there are labels (int64, N), every class as often; return their places, in random order.

    What N leaves over, divided by the classes, goes to classes at random. Within a class no image is drawn once more
    than another: of a large class some images are left out, of a small one all come again, and some once more.
    """
    present = labels.unique()
    quota = torch.full_like(present, len(labels) // len(present))
    quota[torch.randperm(len(present), generator=generator)[: len(labels) % len(present)]] += 1
    drawn = []
    for label, wanted in zip(present.tolist(), quota.tolist(), strict=True):
        members = (labels == label).nonzero().flatten()
        rest = members[torch.randperm(len(members), generator=generator)[: wanted % len(members)]]
        drawn += [members.repeat(wanted // len(members)), rest]
    order = torch.cat(drawn)
    return order[torch.randperm(len(order), generator=generator)]


def _generator(seed: int, epoch: int, *stream: int) -> torch.Generator:
    return torch.Generator().manual_seed(mix(seed, epoch, *stream))
