"""Batches from a data set that lies on the device whole: no worker processes, and no waiting for a copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from flatnext.data.augment import cutout, horizontal_flip, normalize, random_crop
from flatnext.data.dataset import Split
from flatnext.errors import InputError


class Loader:
    """Shuffled, augmented, normalised batches for training.

    The order and every augmentation of an epoch depend on (seed, epoch) alone: they are drawn on the CPU for the
    whole epoch when it begins, so a run that is resumed in the middle of an epoch sees what it would have seen, and
    a GPU sees what a CPU sees. `mean` and `std` are in units of [0, 1] pixels, a channel each; `crop_padding` and
    `cutout` are in pixels. `len(loader)` is the number of steps an epoch. With several processes each gives its `rank`
    out of `ranks` and gets its share of every batch: together they see what one alone would see. Raises `InputError`
    for a bad setting.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        crop_padding: int = 0,
        flip: bool = False,
        cutout: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
            ("crop_padding", crop_padding, 0),
            ("cutout", cutout, 0),
        ):
            if value < least:
                raise InputError(f"{name} is {value}: give at least {least}")
        split = split.to(device)
        # In the layout that is wanted in the end, which every step below keeps.
        self.split = Split(split.images.contiguous(memory_format=_layout(channels_last)), split.labels)
        self.batch_size = batch_size
        self.seed = seed
        self.crop_padding, self.flip, self.cutout = crop_padding, flip, cutout
        self.mean, self.std = _on_device(self.split, mean, std)
        self.dtype = dtype
        self._steps = len(split) // batch_size if drop_last else -(-len(split) // batch_size)
        if self._steps == 0:
            raise InputError(f"batch_size is {batch_size}: there are {len(split)} images, so an epoch has no step")
        self.rank, self.ranks = rank, ranks
        if (least := min(self.batch_count(0), self.batch_count(self._steps - 1))) < ranks:
            raise InputError(
                f"batch_size is {batch_size}: a batch of an epoch has {least} images for {ranks} processes: change it"
            )

    def __len__(self) -> int:
        return self._steps

    def batch_count(self, step: int) -> int:
        """Return the number of images in the batch of a step of an epoch, over all processes."""
        return min(self.batch_size, len(self.split) - step * self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch (counted from 0) from step `start` on, on the device.

        A batch is images (B x 3 x H x W, normalised) and labels (int64, B); without `drop_last` the last batch may
        be smaller.
        """
        if epoch < 0 or not 0 <= start <= len(self):
            raise InputError(f"epoch {epoch}, start {start}: give epoch >= 0 and start from 0 to {len(self)}")
        return self._batches(epoch, start)

    def _batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        draws = [draw.to(self.split.images.device) for draw in self._draw(epoch)]
        for step in range(start, len(self)):
            first = step * self.batch_size
            here = slice(first + self.rank, first + self.batch_size, self.ranks)
            order, offsets, mirrored, centres = (draw[here] for draw in draws)
            yield self._augment(self.split.images[order], offsets, mirrored, centres), self.split.labels[order]

    def _draw(self, epoch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw the order, crop offsets, flips and cutout centres of an epoch, each whether it is in use or not.

        So switching one augmentation on or off changes neither the order nor the other augmentations.
        """
        generator = torch.Generator().manual_seed(mix(self.seed, epoch))
        count, (height, width) = len(self.split), self.split.images.shape[2:]
        order = torch.randperm(count, generator=generator)
        offsets = torch.randint(2 * self.crop_padding + 1, (count, 2), generator=generator)
        mirrored = torch.randint(2, (count,), generator=generator).bool()
        rows = torch.randint(height, (count,), generator=generator)
        columns = torch.randint(width, (count,), generator=generator)
        return order, offsets, mirrored, torch.stack([rows, columns], dim=1)

    def _augment(self, images: Tensor, offsets: Tensor, mirrored: Tensor, centres: Tensor) -> Tensor:
        if self.crop_padding:
            images = random_crop(images, offsets, self.crop_padding)
        if self.flip:
            images = horizontal_flip(images, mirrored)
        pixels = normalize(images, self.mean, self.std, self.dtype)
        return cutout(pixels, centres, self.cutout) if self.cutout else pixels


def mix(seed: int, epoch: int) -> int:
    """Return the 64-bit seed of an epoch's draws; unlike seed + epoch, no two pairs share their stream."""
    # As spawn key the epoch starts on a word of its own; NumPy would otherwise join a long seed and the epoch.
    return int(np.random.SeedSequence(seed, spawn_key=(epoch,)).generate_state(1, np.uint64)[0])


def batches(
    split: Split,
    *,
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    channels_last: bool = True,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all of a split in order and as it is, normalised, for evaluation; the last batch may be smaller."""
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}: give at least 1")
    split = split.to(device)
    constants = _on_device(split, mean, std)
    for images, labels in zip(split.images.split(batch_size), split.labels.split(batch_size), strict=True):
        yield normalize(images.contiguous(memory_format=_layout(channels_last)), *constants, dtype), labels


def _layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def _on_device(split: Split, mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    both = torch.tensor([tuple(mean), tuple(std)], dtype=torch.float64, device=split.images.device)
    return both[0], both[1]
