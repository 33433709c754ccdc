"""Batches from a data set that lies on the device whole: no worker processes, and no waiting for a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from flatnext import config
from flatnext.data.augment import cutout, horizontal_flip, random_crop
from flatnext.data.dataset import Split
from flatnext.data.draws import Draws, draw_epoch
from flatnext.data.images import resize_images
from flatnext.data.mixing import Mixture, mix_images, mix_labels
from flatnext.data.normalization import Normalization
from flatnext.errors import InputError
from flatnext.words import counted

Batch = tuple[Tensor, Tensor]
Places = slice | Tensor
"""Places in the order of an epoch, on the CPU."""

NO_AUGMENTATION = config.Data(crop_padding=0, flip="none")


class Loader:
    """Shuffled, augmented, normalised batches for training.

    The order and every augmentation of an epoch depend on (seed, epoch) alone: they are drawn on the CPU for the
    whole epoch when it begins, so a run that is resumed in the middle of an epoch sees what it would have seen, and
    a GPU sees what a CPU sees. `len(loader)` is the number of steps an epoch.

    An image is augmented by TrivialAugment or RandAugment, then cropped, flipped, normalised and cut out, then mixed:
    image i of a batch with image i from its end. In the epochs of `early_sizes` the images are smaller, and crop and
    cutout are scaled with them, to at least 1 pixel.

    Args:
        split: the training images.
        settings: how they are augmented: `crop_padding`, `flip`, `augment`, `cutout`, `mixup`, `cutmix`, `early_sizes`;
            and how they are drawn: `sampler`.
            The settings that choose and divide a data set are not used. Without any nothing is augmented.
        normalization: usually that of the data set.
        batch_size: images in a batch, over all processes.
        seed: of the order and the augmentation.
        classes: their number, which mixup and CutMix need.
        device: where the whole split is copied, and the batches come from.
        dtype: of the images.
        channels_last: whether the images are channels-last in memory.
        drop_last: leave out the last batch of an epoch where it is smaller.
        rank: number of this process, which gets its share of each batch.
        ranks: number of processes. Together they see what one alone would see.

    Raises:
        InputError: the images do not fit the settings, or are too few for a batch.
    """

    def __init__(
        self,
        split: Split,
        settings: config.Data | None = None,
        *,
        normalization: Normalization,
        batch_size: int,
        seed: int,
        classes: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if len(normalization.mean) != (channels := split.images.shape[1]):
            raise InputError(
                f"normalization is for {len(normalization.mean)} channels and the images have {channels}: "
                f"give normalization.for_channels({channels})"
            )
        self.settings = settings or NO_AUGMENTATION
        self.normalization, self.batch_size, self.seed, self.dtype = normalization, batch_size, seed, dtype
        self.rank, self.ranks = rank, ranks
        # In the layout that is wanted in the end, which every step keeps.
        split = split.to(device)
        self.split = Split(split.images.contiguous(memory_format=_layout(channels_last)), split.labels)
        self._by_size = {self._full_size: self.split.images}
        self._check_images()
        self._steps = self._count_steps(drop_last)
        if (self.settings.mixup or self.settings.cutmix) and classes is None:
            raise InputError("mixup and cutmix need the number of classes: give classes")
        self.classes = classes or 0

    def _check_images(self) -> None:
        """Raise `InputError` unless the images can be brought to the early sizes."""
        height, width = self.split.images.shape[2:]
        sizes = self.settings.early_sizes or ()
        if sizes and height != width:
            raise InputError(f"early_sizes needs square images: these have {height} x {width} pixels: leave it out")
        if sizes and max(sizes) > width:
            raise InputError(f"early_sizes has {max(sizes)}: give sizes up to {width}, the images' own")

    def _count_steps(self, drop_last: bool) -> int:
        """Return the number of batches an epoch; raise `InputError` where one leaves a process without an image."""
        if self.batch_size < 1:
            raise InputError(f"batch_size is {self.batch_size}: give at least 1")
        count = len(self.split)
        steps = count // self.batch_size if drop_last else -(-count // self.batch_size)
        if steps == 0:
            raise InputError(f"batch_size is {self.batch_size}: with {counted(count, 'image')} an epoch has no step")
        if (least := self.batch_count(steps - 1)) < self.ranks:
            raise InputError(
                f"batch_size is {self.batch_size}: a batch of an epoch has {counted(least, 'image')} for {self.ranks} "
                "processes: change it"
            )
        return steps

    def __len__(self) -> int:
        return self._steps

    def batch_count(self, step: int) -> int:
        """Return the number of images in the batch of a step of an epoch, over all processes."""
        return min(self.batch_size, len(self.split) - step * self.batch_size)

    def image_size(self, epoch: int) -> int:
        """Return the width of the images in an epoch, which for square ones is their side."""
        sizes = self.settings.early_sizes or ()
        return sizes[epoch] if epoch < len(sizes) else self._full_size

    def first_epoch_at_size(self, epoch: int) -> int:
        """Return the first of the epochs in a row, up to this one, whose images have this one's size."""
        epoch = min(epoch, len(self.settings.early_sizes or ()))  # from there on all have the full size
        while epoch > 0 and self.image_size(epoch - 1) == self.image_size(epoch):
            epoch -= 1
        return epoch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch (counted from 0) from step `start` on, on the device.

        A batch is images (B x C x H x W, normalised, of this epoch's size) and labels (int64, B); without `drop_last`
        the last batch may be smaller. With mixup or CutMix the labels are probabilities (B x classes, of the images'
        type).
        """
        if epoch < 0 or not 0 <= start <= len(self):
            raise InputError(f"epoch {epoch}, start {start}: give epoch >= 0 and start from 0 to {len(self)}")
        return self._batches(epoch, start)

    def draws(self, epoch: int) -> Draws:
        """Return the random numbers of an epoch, on the CPU."""
        return draw_epoch(
            self.settings,
            seed=self.seed,
            epoch=epoch,
            labels=self.split.labels,
            steps=len(self),
            size=(self._images(epoch).shape[2], self.image_size(epoch)),
            padding=self._scaled(self.settings.crop_padding, epoch),
        )

    @property
    def _full_size(self) -> int:
        return self.split.images.shape[-1]

    def _images(self, epoch: int) -> Tensor:
        """Return all images at the size of an epoch; each size is made once."""
        size = self.image_size(epoch)
        if size not in self._by_size:
            self._by_size[size] = resize_images(self.split.images, size)
        return self._by_size[size]

    def _scaled(self, pixels: int, epoch: int) -> int:
        """Return a length at the image size of an epoch, in whole pixels; one that is not 0 stays so."""
        return max(round(pixels * self.image_size(epoch) / self._full_size), 1) if pixels else 0

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        draws = self.draws(epoch).to(self.split.images.device)

        def augmented(places: Places) -> Batch:
            return self._augmented(epoch, draws, places)

        for step in range(start, len(self)):
            first = step * self.batch_size
            places = slice(first + self.rank, first + self.batch_count(step), self.ranks)
            if draws.mixtures is None:
                yield augmented(places)
            else:
                yield self._mixed(augmented, places, step, draws.mixtures[step])

    def _augmented(self, epoch: int, draws: Draws, places: Places) -> Batch:
        """Return the images at these places of the epoch, augmented and normalised, and their labels."""
        settings, order = self.settings, draws.order[places]
        images = self._images(epoch)[order]
        if draws.operations is not None:
            images = draws.operations[places](images)
        if settings.crop_padding:
            images = random_crop(images, draws.offsets[places], self._scaled(settings.crop_padding, epoch))
        if settings.flip != "none":
            images = horizontal_flip(images, draws.mirrored[places])
        pixels = self.normalization(images, self.dtype)
        if settings.cutout:
            pixels = cutout(pixels, draws.centres[places], self._scaled(settings.cutout, epoch))
        return pixels, self.split.labels[order]

    def _mixed(self, augmented: Callable[[Places], Batch], places: slice, step: int, mixture: Mixture) -> Batch:
        """Return the images at these places of the epoch, each mixed with the one as far from the batch's end."""
        images, labels = augmented(places)
        if self.ranks == 1:
            partners, partner_labels = images.flip(0), labels.flip(0)
        else:  # the partners are another process's images, and made here as well
            ends = 2 * step * self.batch_size + self.batch_count(step) - 1
            partners, partner_labels = augmented(ends - torch.arange(places.start, places.stop, places.step))
        mixed, share = mix_images(images, partners, mixture)
        return mixed, mix_labels(labels, partner_labels, share, self.classes, self.dtype)


def _layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format
