"""Batches from a data set that lies on the device whole: no worker processes, and no waiting for a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from flatnext.data.augment import cutout, horizontal_flip, normalize, random_crop, shrink
from flatnext.data.dataset import Split
from flatnext.data.mixing import Mixture, draw_mixtures, mix_images, mix_labels
from flatnext.data.operations import ROUNDS, Operations, draw_operations
from flatnext.errors import InputError
from flatnext.seeds import mix

Batch = tuple[Tensor, Tensor]
FLIP_STREAM, AUGMENT_STREAM, MIX_STREAM = 1, 2, 3  # of random numbers, beside those of the epochs
FLIPS = ("none", "random", "alternating")
AUGMENTS = ("none", *ROUNDS)


class Loader:
    """Shuffled, augmented, normalised batches for training.

    The order and every augmentation of an epoch depend on (seed, epoch) alone: they are drawn on the CPU for the
    whole epoch when it begins, so a run that is resumed in the middle of an epoch sees what it would have seen, and
    a GPU sees what a CPU sees. `mean` and `std` are in units of [0, 1] pixels, a channel each; `crop_padding` and
    `cutout` are in pixels. `len(loader)` is the number of steps an epoch. With several processes each gives its `rank`
    out of `ranks` and gets its share of every batch: together they see what one alone would see. Raises `InputError`
    for a bad setting.

    `flip` mirrors images left to right: none, each by chance in each epoch (`random`), or each in every other epoch
    (`alternating`), so that it is seen both ways equally often; by chance in the first (arXiv 2404.00498). `augment`
    is TrivialAugment or RandAugment (see `draw_operations`), done before anything else. `mixup` and `cutmix` are the
    alphas of these (see `draw_mixtures`), 0 for none; image i of a batch is mixed with image i from its end. They
    need the number of `classes`.

    `early_sizes` are the sides of the (square) images in the first epochs, an epoch each; later ones use the full
    size. In them `crop_padding` and `cutout` are scaled in proportion, to at least 1 pixel where they are not 0.
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
        flip: str = "none",
        augment: str = "none",
        cutout: int = 0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        classes: int | None = None,
        early_sizes: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        _require_least(1, batch_size=batch_size)
        _require_least(0, seed=seed, crop_padding=crop_padding, cutout=cutout, mixup=mixup, cutmix=cutmix)
        _require_choice(FLIPS, flip=flip)
        _require_choice(AUGMENTS, augment=augment)
        if (mixup or cutmix) and classes is None:
            raise InputError("mixup and cutmix need the number of classes: give classes")
        split = split.to(device)
        # In the layout that is wanted in the end, which every step below keeps.
        self.split = Split(split.images.contiguous(memory_format=_layout(channels_last)), split.labels)
        self.batch_size = batch_size
        self.seed = seed
        self.crop_padding, self.flip, self.augment, self.cutout = crop_padding, flip, augment, cutout
        self.mixup, self.cutmix, self.classes = mixup, cutmix, classes or 0
        self.early_sizes = tuple(early_sizes or ())
        _check_sizes(self.early_sizes, split.images)
        self._by_size = {split.images.shape[-1]: self.split.images}
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

    def image_size(self, epoch: int) -> int:
        """Return the width of the images in an epoch, which for square ones is their side."""
        return self.early_sizes[epoch] if epoch < len(self.early_sizes) else self.split.images.shape[-1]

    def size_began(self, epoch: int) -> int:
        """Return the first of the epochs in a row, up to this one, whose images have this one's size."""
        while epoch > 0 and self.image_size(epoch - 1) == self.image_size(epoch):
            epoch -= 1
        return epoch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch (counted from 0) from step `start` on, on the device.

        A batch is images (B x 3 x H x W, normalised, of this epoch's size) and labels (int64, B); without `drop_last`
        the last batch may be smaller. With mixup or CutMix the labels are probabilities (B x classes, of the images'
        type).
        """
        if epoch < 0 or not 0 <= start <= len(self):
            raise InputError(f"epoch {epoch}, start {start}: give epoch >= 0 and start from 0 to {len(self)}")
        return self._batches(epoch, start)

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        images, scale = self._images(epoch), self._scale(epoch)
        draws, operations = [draw.to(images.device) for draw in self._draw(epoch)], self._operations(epoch)

        def make(at: slice | Tensor) -> Batch:
            order, offsets, mirrored, centres = (draw[at] for draw in draws)
            chosen = images[order] if operations is None else operations[at](images[order])
            return self._augment(chosen, offsets, mirrored, centres, scale), self.split.labels[order]

        mixtures = self._mixtures(epoch)
        for step in range(start, len(self)):
            first = step * self.batch_size
            here = slice(first + self.rank, first + self.batch_count(step), self.ranks)
            yield make(here) if mixtures is None else self._mix(make, here, step, mixtures[step])

    def _mix(self, make: Callable[[slice | Tensor], Batch], here: slice, step: int, mixture: Mixture) -> Batch:
        """Return the images at these places of the epoch, each mixed with the one as far from the batch's end."""
        images, labels = make(here)
        if self.ranks == 1:
            partners, others = images.flip(0), labels.flip(0)
        else:  # the partners are another process's images, and made here as well
            ends = 2 * step * self.batch_size + self.batch_count(step) - 1
            partners, others = make(ends - torch.arange(here.start, here.stop, here.step))
        mixed, share = mix_images(images, partners, mixture)
        return mixed, mix_labels(labels, others, share, self.classes, self.dtype)

    def _operations(self, epoch: int) -> Operations | None:
        """Draw what TrivialAugment or RandAugment does in an epoch."""
        if self.augment == "none":
            return None
        images = self._images(epoch)
        height, width = images.shape[2:]
        generator = torch.Generator().manual_seed(mix(self.seed, epoch, AUGMENT_STREAM))
        return draw_operations(self.augment, len(self.split), height, width, generator).to(images.device)

    def _mixtures(self, epoch: int) -> list[Mixture] | None:
        """Draw how the batches of an epoch are mixed."""
        if not (self.mixup or self.cutmix):
            return None
        generator = np.random.default_rng(mix(self.seed, epoch, MIX_STREAM))
        return draw_mixtures(len(self), self.mixup, self.cutmix, generator)

    def _images(self, epoch: int) -> Tensor:
        """Return all images at the size of an epoch; each size is made once."""
        size = self.image_size(epoch)
        if size not in self._by_size:
            self._by_size[size] = shrink(self.split.images, size)
        return self._by_size[size]

    def _scale(self, epoch: int) -> float:
        return self.image_size(epoch) / self.split.images.shape[-1]

    def _draw(self, epoch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw the order, crop offsets, flips and cutout centres of an epoch, each whether it is in use or not.

        So switching one augmentation on or off changes neither the order nor the other augmentations.
        """
        generator = torch.Generator().manual_seed(mix(self.seed, epoch))
        count, (height, width) = len(self.split), self._images(epoch).shape[2:]
        padding = _scaled(self.crop_padding, self._scale(epoch))
        order = torch.randperm(count, generator=generator)
        offsets = torch.randint(2 * padding + 1, (count, 2), generator=generator)
        mirrored = torch.randint(2, (count,), generator=generator).bool()
        if self.flip == "alternating":
            mirrored = self._mirrored_first()[order] ^ bool(epoch % 2)
        rows = torch.randint(height, (count,), generator=generator)
        columns = torch.randint(width, (count,), generator=generator)
        return order, offsets, mirrored, torch.stack([rows, columns], dim=1)

    def _mirrored_first(self) -> Tensor:
        """Return for each image of the split whether alternating flips mirror it in the first epoch."""
        generator = torch.Generator().manual_seed(mix(self.seed, 0, FLIP_STREAM))
        return torch.randint(2, (len(self.split),), generator=generator).bool()

    def _augment(self, images: Tensor, offsets: Tensor, mirrored: Tensor, centres: Tensor, scale: float) -> Tensor:
        if self.crop_padding:
            images = random_crop(images, offsets, _scaled(self.crop_padding, scale))
        if self.flip != "none":
            images = horizontal_flip(images, mirrored)
        pixels = normalize(images, self.mean, self.std, self.dtype)
        return cutout(pixels, centres, _scaled(self.cutout, scale)) if self.cutout else pixels


def _require_least(least: int, **values: float) -> None:
    for name, value in values.items():
        if not value >= least:
            raise InputError(f"{name} is {value}: give at least {least}")


def _require_choice(choices: Sequence[str], **values: str) -> None:
    for name, value in values.items():
        if value not in choices:
            raise InputError(f"{name} is {value!r}: choose one of {', '.join(choices)}")


def _check_sizes(sizes: tuple[int, ...], images: Tensor) -> None:
    """Raise `InputError` unless images can be brought to these sizes."""
    height, width = images.shape[2:]
    if sizes and height != width:
        raise InputError(f"early_sizes needs square images: these have {height} x {width} pixels: leave it out")
    for size in sizes:
        if not 1 <= size <= width:
            raise InputError(f"early_sizes has {size}: give sizes from 1 to {width}, the images' own")


def _scaled(pixels: int, scale: float) -> int:
    """Return a length at another image size, in whole pixels; one that is not 0 stays so."""
    return max(round(pixels * scale), 1) if pixels else 0


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
