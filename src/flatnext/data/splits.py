"""Stratified splits: images held out for validation, and fewer images to train on."""

from __future__ import annotations

import torch
from torch import Tensor

from flatnext import config
from flatnext.data.dataset import Dataset, Partition, Split
from flatnext.errors import InputError


def partition(dataset: Dataset, settings: config.Data) -> Partition:
    """Hold `settings.validation` training images out (None: a tenth), and keep `settings.train_images` of the rest.

    Both draws are stratified and seeded by `settings.split_seed` alone, so all seeds of a study share them; the
    validation images are the same whatever `train_images` is. Raises `InputError` where there are too few images.
    """
    generator = torch.Generator().manual_seed(settings.split_seed)
    train, validation = _hold_out(dataset, settings.validation, generator)
    if settings.train_images is not None:
        train = _keep(dataset, train, settings.train_images, generator)
    return Partition(**{**vars(dataset), "train": train, "validation": validation})


def _hold_out(dataset: Dataset, count: int | None, generator: torch.Generator) -> tuple[Split, Split | None]:
    """Return the images to train on and those held out."""
    train = dataset.train
    count = len(train) // 10 if count is None else count
    if count == 0:
        return train, None
    if count >= len(train):
        raise InputError(
            f"validation is {count}: {dataset.name} has {len(train)} training images, so give at most {len(train) - 1}"
        )
    held_out, rest = stratified(train.labels, count, generator)
    return train.select(rest), train.select(held_out)


def _keep(dataset: Dataset, train: Split, count: int, generator: torch.Generator) -> Split:
    if count > len(train):
        raise InputError(
            f"train_images is {count}: {dataset.name} has {len(train)} beside {len(dataset.train) - len(train)} for "
            f"validation, so give at most {len(train)}"
        )
    return train.select(stratified(train.labels, count, generator)[0])


def stratified(labels: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw `count` indices at random, the same share of each class; return them and the rest, each rising.

    Shares are rounded by largest remainders (ties go to the lower class), so that exactly `count` are drawn.
    """
    sizes = torch.bincount(labels)
    quota, remainder = (sizes * count) // len(labels), (sizes * count) % len(labels)
    quota[remainder.argsort(descending=True, stable=True)[: count - int(quota.sum())]] += 1
    order = torch.randperm(len(labels), generator=generator)
    drawn = torch.zeros(len(labels), dtype=torch.bool)
    for label, share in enumerate(quota.tolist()):
        drawn[order[labels[order] == label][:share]] = True
    return drawn.nonzero().flatten(), (~drawn).nonzero().flatten()
