"""A data set as tensors."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import torch
from torch import Tensor

from flatnext.data.normalization import Normalization
from flatnext.errors import InputError
from flatnext.words import counted


@dataclass(frozen=True, eq=False)
class Split:
    """Images (uint8, N x C x H x W, C 3 or 1) and their labels (int64, N). Raises `InputError` where they do not fit.

    `names` say which image is which where images may be added, and decide which are held out (None: their places do).
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check types and shapes."""
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise InputError(
                f"images are {images.dtype} {tuple(images.shape)}: give torch.uint8, N x 3 x H x W or N x 1 x H x W"
            )
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise InputError(f"labels are {labels.dtype} {tuple(labels.shape)}: give torch.int64, ({len(images)},)")
        if self.names is not None and len(self.names) != len(images):
            names = counted(len(self.names), "name")
            raise InputError(f"there are {names} for {counted(len(images), 'image')}: give one for each")

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> Split:
        """Return the images at `indices` (int64), in that order."""
        names = None if self.names is None else tuple(self.names[index] for index in indices.tolist())
        return Split(self.images[indices], self.labels[indices], names)

    def to(self, device: torch.device | str) -> Split:
        """Return this split on `device`; where it lies there already, nothing is copied."""
        return Split(self.images.to(device), self.labels.to(device), self.names)


def check_class_name(name: str, where: str) -> None:
    """Raise `InputError`, which begins with `where`, for the name of a class that no file or terminal can show."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where} {name!r}, whose name is not UTF-8: rename it") from None
    if not name.strip():
        raise InputError(f"{where} {name!r}, whose name is empty: rename it")
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in name):
        raise InputError(f"{where} {name!r}, whose name has control characters: rename it")


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Training and test images, and how they are normalised.

    `validation` are images that the data set itself sets apart for choices; most leave that to `partition`. `notes` are
    lines on how it was read and what was not used.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split | None = None
    test: Split
    normalization: Normalization
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the names of the classes, that labels name one, and that all splits have images of one size."""
        for name in self.classes:
            check_class_name(name, f"{self.name} has the class")
        splits = {"training": self.train, "validation": self.validation, "test": self.test}
        for part, split in splits.items():
            if split is None:
                continue
            if len(split) == 0:
                raise InputError(f"{self.name} has no {part} images: give at least one")
            if split.labels.min() < 0 or split.labels.max() >= len(self.classes):
                raise InputError(f"{self.name} has {part} labels outside 0 to {len(self.classes) - 1}: correct them")
            if split.images.shape[1:] != self.train.images.shape[1:]:
                raise InputError(
                    f"{self.name} has training and {part} images of different sizes or channels: make them alike"
                )


@dataclass(frozen=True, kw_only=True, eq=False)
class Partition(Dataset):
    """A data set divided for a run: with images held out for choices (None: none), and perhaps fewer to train on.

    `calibration` are images held out for nothing but the calibration of the model's answers (None: none).
    """

    calibration: Split | None = None
