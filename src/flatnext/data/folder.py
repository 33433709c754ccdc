"""A folder of images, one subfolder a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from flatnext.data.dataset import Split
from flatnext.data.images import image_files, read_image
from flatnext.data.splits import stratified
from flatnext.errors import InputError

IMAGE_SIZE = 32
TEST_SEED = 0


def load_folder(data_dir: Path, image_size: int | None = None) -> tuple[tuple[str, ...], Split, Split]:
    """Return classes (the subfolders' names, sorted), training and test images.

    `data_dir` holds `train/CLASS/*` and `test/CLASS/*` (or `val/CLASS/*` where there is no `test`), or `CLASS/*`
    alone: then a stratified fifth of the images, always the same, is the test set. An image is rotated as its
    EXIF data say, converted to RGB, resized until its shorter side has `image_size` pixels (default 32), and cropped to
    the square in its middle. Names that begin with a dot and files that are not images are ignored. Raises
    `InputError` for a folder without two classes or an image that cannot be read.
    """
    size = image_size or IMAGE_SIZE
    if not data_dir.is_dir():
        raise InputError(f"{data_dir} is not a folder: give one with a subfolder of images for each class as data_dir")
    if not (data_dir / "train").is_dir():
        classes = _classes(data_dir)
        return classes, *_divide(read_images(data_dir, classes, size))
    test = data_dir / ("val" if not (data_dir / "test").is_dir() and (data_dir / "val").is_dir() else "test")
    if not test.is_dir():
        raise InputError(f"{data_dir} has a folder train but none for the test: add {test}")
    classes = _classes(data_dir / "train")
    unknown = sorted({folder.name for folder in subfolders(test)} - set(classes))
    if unknown:
        raise InputError(f"{test / unknown[0]} is a class without training images: add them, or remove it")
    return classes, read_images(data_dir / "train", classes, size), read_images(test, classes, size)


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, in any order, except those whose names begin with a dot."""
    return [child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")]


def _classes(folder: Path) -> tuple[str, ...]:
    names = sorted(child.name for child in subfolders(folder))
    if len(names) < 2:
        raise InputError(f"{folder} has {len(names)} class folders: give at least two, each with its images")
    for name in names:
        if not image_files(folder / name):
            raise InputError(f"{folder / name} holds no images: add some, or remove the folder")
    return tuple(names)


def read_images(folder: Path, classes: Sequence[str], size: int) -> Split:
    """Return the images in a folder's subfolders, sorted by class and file name; labels are indices into `classes`.

    The images (N x 3 x `size` x `size`) are read as `load_folder` says. Raises `InputError` as it does.
    """
    files = [(path, label) for label, name in enumerate(classes) for path in image_files(folder / name)]
    if not files:
        raise InputError(f"{folder} holds no images: add some for each class")
    images = np.stack([read_image(path, size) for path, _ in files])
    return Split(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor([label for _, label in files]))


def _divide(whole: Split) -> tuple[Split, Split]:
    count = max(1, round(len(whole) / 5))
    test, train = stratified(whole.labels, count, torch.Generator().manual_seed(TEST_SEED))
    return whole.select(train), whole.select(test)
