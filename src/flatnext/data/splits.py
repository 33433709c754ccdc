"""Stratified splits: images held out for validation and calibration, and fewer images to train on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import torch
from torch import Tensor

from flatnext import config
from flatnext.data.dataset import Dataset, Partition, Split
from flatnext.errors import InputError
from flatnext.words import counted, shortened

SHARE = 1 / 10
"""Of the training images, held out for validation by default."""


CHUNK = 100
"""Images that are moved at a time."""


def partition(dataset: Dataset, settings: config.Data, *, overwrite: bool = False) -> Partition:
    """Hold `settings.validation` training images out (None: a tenth), and keep `settings.train_images` of the rest.

    Between these, `settings.calibration` images are held out of the rest for the calibration of the model's answers.
    The draws are seeded by `settings.split_seed` alone, so all seeds of a study share them; the images held out are
    the same whatever `train_images` is. A number is drawn exactly, every class in proportion (`stratified`). The tenth
    too, but where images have names it is a tenth of each class by itself (`hold_out_by_name`). Names decide by their
    hashes which images are drawn: when images are added, only those at the threshold change sides. A data set with
    validation images of its own keeps them, unless `settings.validation` is 0: then it has none.

    With `overwrite` the images to train on take the place of all in memory, so that there is no second copy of them;
    `dataset` is of no use after that.

    Raises:
        InputError: there are too few images, or `settings.validation` is a number where the data set has its own.
    """
    generator = torch.Generator().manual_seed(settings.split_seed)
    train, validation = _hold_out(dataset, settings, generator, overwrite)
    train, calibration = _for_calibration(dataset, train, settings, generator, overwrite)
    if settings.train_images is not None:
        train = _keep(dataset, train, settings, generator)
    lost = dataset.train.labels.unique()[~torch.isin(dataset.train.labels.unique(), train.labels)]
    names = shortened(dataset.classes[label] for label in lost.tolist())
    notes = [f"no image to train on is left of {counted(len(lost), 'class')}: {names}"] if len(lost) else []
    if train.names is not None:  # of images that are divided already the data set has counted them
        drawn = validation if dataset.validation is None else None
        notes += copies(train, validation=drawn, calibration=calibration)
    parts = {"train": train, "validation": validation, "calibration": calibration, "notes": (*dataset.notes, *notes)}
    return Partition(**{**vars(dataset), **parts})


def copies(train: Split, **parts: Split | None) -> list[str]:
    """Return notes on images of other parts that are among those to train on too, by their pixels as they were read."""
    there = {part: split for part, split in parts.items() if split is not None}
    known, notes = set(_digests(train)) if there else set(), []
    for part, split in there.items():
        if count := sum(digest in known for digest in _digests(split)):
            are = "is, to the pixel, a training image" if count == 1 else "are, to the pixel, training images"
            notes.append(f"{count:,} of {counted(len(split), f'{part} image')} {are} as well: remove the copies")
    return notes


def _digests(split: Split) -> Iterator[bytes]:
    """Yield a hash of each image; they are channels-last in memory."""
    return (hashlib.sha256(image.permute(1, 2, 0).contiguous().numpy().data).digest() for image in split.images)


def _hold_out(
    dataset: Dataset, settings: config.Data, generator: torch.Generator, overwrite: bool
) -> tuple[Split, Split | None]:
    """Return the images to train on and those held out."""
    train, count = dataset.train, settings.validation
    if dataset.validation is not None and count:
        raise InputError(f"validation is {count}: {dataset.name} has validation images of its own: leave it out")
    if dataset.validation is not None:
        return train, dataset.validation if count is None else None
    salt = f"validation {settings.split_seed}"
    if count is None and train.names is not None:
        held_out, rest = hold_out_by_name(train, SHARE, salt)
        return divide(train, held_out, rest, overwrite=overwrite)
    count = len(train) // 10 if count is None else count
    if count == 0:
        return train, None
    if count >= len(train):
        most = f"give at most {len(train) - 1}" if len(train) > 1 else "give 0, or more images"
        images = counted(len(train), "training image")
        raise InputError(f"validation is {count}: {dataset.name} has {images}, so {most}")
    order = _order(train, salt, generator)
    return divide(train, *_draw(train.labels, count, order, leaves_one=True), overwrite=overwrite)


def _for_calibration(
    dataset: Dataset, train: Split, settings: config.Data, generator: torch.Generator, overwrite: bool
) -> tuple[Split, Split | None]:
    """Return the images to train on and those held out for calibration."""
    count = settings.calibration
    if count == 0:
        return train, None
    if count >= len(train):
        most = f"give at most {len(train) - 1}" if len(train) > 1 else "leave it out, or give more images"
        images = counted(len(train), "training image")
        raise InputError(f"calibration is {count}: {dataset.name} has {images} beside those for validation, so {most}")
    order = _order(train, f"calibration {settings.split_seed}", generator)
    return divide(train, *_draw(train.labels, count, order, leaves_one=True), overwrite=overwrite)


def divide(split: Split, held_out: Tensor, rest: Tensor, *, overwrite: bool) -> tuple[Split, Split | None]:
    """Return the images at `rest`, which rise, and those held out; with `overwrite` the former in the memory of all."""
    apart = split.select(held_out) if len(held_out) else None
    return _keep_in_place(split, rest) if overwrite else split.select(rest), apart


def _keep_in_place(split: Split, indices: Tensor) -> Split:
    """Return the images at `indices`, moved to the beginning of the memory of all."""
    start = 0
    for chunk in indices.split(CHUNK):
        split.images[start : start + len(chunk)] = split.images[chunk]
        start += len(chunk)
    names = None if split.names is None else tuple(split.names[index] for index in indices.tolist())
    return Split(split.images[:start], split.labels[indices], names)


def _keep(dataset: Dataset, train: Split, settings: config.Data, generator: torch.Generator) -> Split:
    count = settings.train_images or 0
    if count > len(train):
        raise InputError(
            f"train_images is {count}: {dataset.name} has {len(train)} beside {len(dataset.train) - len(train)} that "
            f"are held out, so give at most {len(train)}"
        )
    order = _order(train, f"train {settings.split_seed}", generator)
    return train.select(_draw(train.labels, count, order)[0])


def hold_out_by_name(split: Split, share: float, salt: str) -> tuple[Tensor, Tensor]:
    """Hold out a `share` of each class by the names; return the indices of these images and of the rest, each rising.

    Of each class those with the least hashes of name and `salt` are held out, as many as its share, rounded; of two
    images or more one at least, and never all. So each image that is added moves one other of its class at most.
    """
    quota = [max(0, min(max(1, round(share * size)), size - 1)) for size in torch.bincount(split.labels).tolist()]
    return _first(split.labels, quota, _numbers(split, salt).argsort(stable=True))


def _numbers(split: Split, salt: str) -> Tensor:
    """Return a number from 0 to 1 for each image, by its name and `salt`."""
    digests = (hashlib.sha256(salt.encode() + b"/" + os.fsencode(name)).digest() for name in split.names or ())
    return torch.tensor([int.from_bytes(digest[:8], "big") / 2**64 for digest in digests], dtype=torch.float64)


def _order(split: Split, salt: str, generator: torch.Generator) -> Tensor:
    """Return the images in a random order, by their names where they have some."""
    if split.names is None:
        return torch.randperm(len(split), generator=generator)
    return _numbers(split, salt).argsort(stable=True)


def stratified(labels: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw `count` indices at random, the same share of each class; return them and the rest, each rising.

    Shares are rounded by largest remainders (ties go to the lower class), so that exactly `count` are drawn.
    """
    return _draw(labels, count, torch.randperm(len(labels), generator=generator))


def _draw(labels: Tensor, count: int, order: Tensor, *, leaves_one: bool = False) -> tuple[Tensor, Tensor]:
    """Draw as `stratified` says: of each class the first ones in `order`.

    With `leaves_one` no class is drawn whole, as long as others have an image to give in its place.
    """
    sizes = torch.bincount(labels)
    quota, remainder = (sizes * count) // len(labels), (sizes * count) % len(labels)
    quota[remainder.argsort(descending=True, stable=True)[: count - int(quota.sum())]] += 1
    if leaves_one:
        for label in ((quota == sizes) & (sizes > 0)).nonzero().flatten().tolist():
            spare = sizes - quota
            if int(spare.max()) > 1:
                quota[label] -= 1
                quota[int(spare.argmax())] += 1
    return _first(labels, quota.tolist(), order)


def _first(labels: Tensor, quota: list[int], order: Tensor) -> tuple[Tensor, Tensor]:
    """Draw of each class so many, the first ones in `order`; return their indices and the rest, each rising."""
    drawn = torch.zeros(len(labels), dtype=torch.bool)
    for label, count in enumerate(quota):
        drawn[order[labels[order] == label][:count]] = True
    return drawn.nonzero().flatten(), (~drawn).nonzero().flatten()
