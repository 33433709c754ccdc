"""Small random splits and data sets, loaders of them, and their augmentation an image at a time."""

from dataclasses import fields

import numpy as np
import torch

from flatnext.config import Data
from flatnext.data import Dataset, Loader, Normalization, Split

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


def make_dataset(classes=3, count=30):
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8))
    split = Split(images, torch.arange(count) % classes)
    return Dataset(
        name="some",
        classes=tuple(f"class ${label}$" for label in range(classes)),
        train=split,
        test=split.select(torch.arange(classes)),
        normalization=Normalization((0.5, 0.4, 0.3), (0.3, 0.2, 0.1)),
    )


def augment_slowly(image, padding=0, offset=(0, 0), mirror=False, centre=(0, 0), size=0):
    """Return one image, cropped, flipped, normalised and cut out, pixel by pixel in double precision."""
    _, height, width = image.shape
    result = np.zeros(image.shape)
    for y in range(height):
        for x in range(width):
            from_y = y + offset[0] - padding
            from_x = (width - 1 - x if mirror else x) + offset[1] - padding
            inside = 0 <= from_y < height and 0 <= from_x < width
            covered = all(0 <= at - (mid - size // 2) < size for at, mid in zip((y, x), centre, strict=True))
            for channel in range(3):
                value = image[channel, from_y, from_x] if inside else 0
                result[channel, y, x] = 0 if covered else (value / 255 - MEAN[channel]) / STD[channel]
    return result
