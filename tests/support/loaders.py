"""Small random splits, and loaders of them."""

from dataclasses import fields

import numpy as np
import torch

from flatnext.config import Data
from flatnext.data import Loader, Normalization, Split

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
NORMALIZATION = Normalization(MEAN, STD)


def make_split(count=37, height=9, width=7):
    """Return a split whose labels are the images' numbers."""
    images = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (count, 3, height, width), dtype=np.uint8))
    return Split(images, torch.arange(count))


def make_loader(split, **changes):
    """Return a loader with some augmentation; `changes` are settings of the data or arguments of the loader."""
    options = {"crop_padding": 2, "flip": "random", "cutout": 4, "batch_size": 8, "seed": 5, **changes}
    settings = Data(**{field.name: options.pop(field.name) for field in fields(Data) if field.name in options})
    return Loader(split, settings, normalization=NORMALIZATION, **options)


def collect(batches):
    """Return the images and the labels of all batches."""
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)
