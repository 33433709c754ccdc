"""A data set as tensors, and its division into training, validation and test images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flatnext import config
from flatnext.data.normalization import Normalization
from flatnext.errors import InputError


@dataclass(frozen=True, eq=False)
class Split:
    """Images (uint8, N x 3 x H x W) and their labels (int64, N). Raises `InputError` where they do not fit."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        """Check types and shapes."""
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise InputError(f"images are {images.dtype} {tuple(images.shape)}: give torch.uint8, N x 3 x H x W")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise InputError(f"labels are {labels.dtype} {tuple(labels.shape)}: give torch.int64, ({len(images)},)")

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> Split:
        """Return the images at `indices` (int64), in that order."""
        return Split(self.images[indices], self.labels[indices])

    def to(self, device: torch.device | str) -> Split:
        """Return this split on `device`; where it lies there already, nothing is copied."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Training and test images, and how they are normalised."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    normalization: Normalization

    def __post_init__(self) -> None:
        """Check that labels name a class and that both splits have images of one size."""
        for part, split in (("training", self.train), ("test", self.test)):
            if len(split) == 0:
                raise InputError(f"{self.name} has no {part} images: give at least one")
            if split.labels.min() < 0 or split.labels.max() >= len(self.classes):
                raise InputError(f"{self.name} has {part} labels outside 0 to {len(self.classes) - 1}: correct them")
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            raise InputError(f"{self.name} has training and test images of different sizes: make them one size")

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean of `normalization`."""
        return self.normalization.mean

    @property
    def std(self) -> tuple[float, ...]:
        """The std of `normalization`."""
        return self.normalization.std


@dataclass(frozen=True, kw_only=True, eq=False)
class Partition:
    """What a run sees: the images it trains on, those it chooses by (None: none), and those it is judged by."""

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split | None
    test: Split
    normalization: Normalization

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean of `normalization`."""
        return self.normalization.mean

    @property
    def std(self) -> tuple[float, ...]:
        """The std of `normalization`."""
        return self.normalization.std


def partition(dataset: Dataset, settings: config.Data) -> Partition:
    """Hold `settings.validation` training images out (None: a tenth), and keep `settings.train_images` of the rest.

    Both draws are stratified and seeded by `settings.split_seed` alone, so all seeds of a study share them; the
    validation images are the same whatever `train_images` is. Raises `InputError` where there are too few images.
    """
    generator = torch.Generator().manual_seed(settings.split_seed)
    train, validation = dataset.train, None
    count = len(train) // 10 if settings.validation is None else settings.validation
    if count:
        if count >= len(train):
            raise InputError(
                f"validation is {count}: {dataset.name} has {len(train)} training images, "
                f"so give at most {len(train) - 1}"
            )
        held_out, rest = stratified(train.labels, count, generator)
        train, validation = train.select(rest), train.select(held_out)
    if settings.train_images is not None:
        if settings.train_images > len(train):
            raise InputError(
                f"train_images is {settings.train_images}: {dataset.name} has {len(train)} "
                f"beside {count} for validation, so give at most {len(train)}"
            )
        kept, _ = stratified(train.labels, settings.train_images, generator)
        train = train.select(kept)
    return Partition(
        name=dataset.name,
        classes=dataset.classes,
        train=train,
        validation=validation,
        test=dataset.test,
        normalization=dataset.normalization,
    )


def stratified(labels: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw `count` indices at random, the same share of each class; return them and the rest, each rising.

    Shares are rounded by largest remainders (ties go to the lower class), so that exactly `count` are drawn.
    """
    sizes = torch.bincount(labels)
    quota, remainder = (sizes * count) // len(labels), (sizes * count) % len(labels)
    quota[remainder.argsort(descending=True, stable=True)[: count - int(quota.sum())]] += 1
    order = torch.randperm(len(labels), generator=generator)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label, share in enumerate(quota.tolist()):
        chosen[order[labels[order] == label][:share]] = True
    return chosen.nonzero().flatten(), (~chosen).nonzero().flatten()
