"""A data set as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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


@dataclass(frozen=True, kw_only=True, eq=False)
class Partition(Dataset):
    """A data set divided for a run: with images held out for choices (None: none), and perhaps fewer to train on."""

    validation: Split | None
