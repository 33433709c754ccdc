"""The data sets by name."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from flatnext.data.cifar import LAYOUTS, load_cifar
from flatnext.data.dataset import Dataset, Split, Triple, channel_statistics
from flatnext.data.digits import load_digits
from flatnext.data.folder import load_folder
from flatnext.errors import InputError

# The report's constants. Its std is the usual one of CIFAR-10's literature: the mean over images of an image's own
# std, smaller than that of all pixels (0.247, 0.243, 0.262).
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)

NAMES = (*LAYOUTS, "digits", "folder")


def load(
    name: str,
    data_dir: Path | str = ".data",
    *,
    image_size: int | None = None,
    download: bool = True,
    progress: bool = False,
) -> Dataset:
    """Return the data set `name`: cifar10, cifar100, digits, or folder (of images, in `data_dir`).

    With `image_size` the images are resized to so many pixels a side. Where `download` is true, CIFAR is fetched into
    `data_dir` if it is not there, with a bar if `progress` is true. The normalisation constants are the report's for
    CIFAR-10 and those of the training images for the others. Raises `InputError`, and leaves no file behind then.
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"image_size is {image_size}: give at least 1")
    data_dir = Path(data_dir)
    if name in LAYOUTS:
        classes, train, test = load_cifar(name, data_dir, download=download, progress=progress)
    elif name == "digits":
        classes, train, test = load_digits()
    elif name == "folder":
        classes, train, test = load_folder(data_dir, image_size)
    else:
        raise InputError(f"unknown dataset {name!r}: choose one of {', '.join(NAMES)}")
    if image_size is not None:
        train, test = (Split(resize(split.images, image_size), split.labels) for split in (train, test))
    mean, std = (CIFAR10_MEAN, CIFAR10_STD) if name == "cifar10" else _constants(train.images)
    return Dataset(name=name, classes=classes, train=train, test=test, mean=mean, std=std)


def _constants(images: Tensor) -> tuple[Triple, Triple]:
    mean, (red, green, blue) = channel_statistics(images)
    # A channel that never changes has std 0; less its mean it is 0, whatever it is divided by.
    return mean, (red or 1.0, green or 1.0, blue or 1.0)


def resize(images: Tensor, size: int) -> Tensor:
    """Return uint8 images (N x 3 x H x W) at `size` x `size`, by bilinear interpolation with antialiasing."""
    if images.shape[2:] == (size, size):
        return images
    resized = torch.empty((len(images), 3, size, size), dtype=torch.uint8)
    for source, target in zip(images.split(500), resized.split(500), strict=True):  # in parts: floats take 4 x the room
        pixels = F.interpolate(source.float(), (size, size), mode="bilinear", align_corners=False, antialias=True)
        target.copy_(pixels.round_().clamp_(0, 255))
    return resized
