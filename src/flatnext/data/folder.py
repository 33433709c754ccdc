"""A folder of images, one subfolder a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from flatnext.data.dataset import Dataset, Split
from flatnext.data.images import read_images
from flatnext.data.layout import LabelledFiles, list_labelled, read_layout
from flatnext.data.normalization import Normalization
from flatnext.data.splits import divide, hold_out_by_name
from flatnext.errors import InputError
from flatnext.pictures import Resize
from flatnext.progress import Display

IMAGE_SIZE = 32
TEST_SHARE = 1 / 5
TEST_SALT = "test"
LARGE = 10**9
"""Bytes of images from which on their number is said before they are read."""


def load_folder(
    data_dir: Path, image_size: int | None = None, resize: Resize = "crop", display: Display | None = None
) -> Dataset:
    """Return the data set in a folder. Its classes are the names of the class folders, sorted.

    `data_dir` holds `train/CLASS/*` and `test/CLASS/*`, and perhaps `val/CLASS/*`, which are then the validation
    images; without `test` they are the test images. `valid` and `validation` are other names of `val`; all may be in
    any letter case. Or it holds `CLASS/*` alone, perhaps with `test` or `val` beside: without, about a fifth of the
    images is the test set, drawn by `hold_out_by_name`. A `test` or `val` with images in no class folders is not used.

    Files are images by their content, read by `flatnext.pictures.read_picture` at `image_size` pixels a side (default
    32). Hidden and system files are ignored; what else is not used is in the data set's notes.

    Raises:
        InputError: the folder has not two classes, a class has no images or a name that is no text, or images cannot
            be read, all of which are named.
    """
    size, display = image_size or IMAGE_SIZE, display or Display()
    check_folder(data_dir)
    layout = read_layout(data_dir)
    parts = {name: files for name in ("train", "validation", "test") if (files := getattr(layout, name)) is not None}
    splits = _read(parts, size, resize, display)
    train, test = splits["train"], splits.get("test")
    if test is None:
        train, test = divide(train, *hold_out_by_name(train, TEST_SHARE, TEST_SALT), overwrite=True)
    return Dataset(
        name="folder",
        classes=layout.classes,
        train=train,
        validation=splits.get("validation"),
        test=test or train.select(torch.arange(0)),
        normalization=Normalization.of(train.images),
        notes=layout.notes,
    )


def check_folder(data_dir: Path) -> None:
    """Raise `InputError` if there is no such folder."""
    if not data_dir.is_dir():
        raise InputError(f"{data_dir} is not a folder: give one with a subfolder of images for each class as data_dir")


def read_labelled(folder: Path, classes: Sequence[str], size: int) -> Split:
    """Return the images in a folder's class folders, sorted by class and file name; labels are indices into `classes`.

    The images (N x 3 x `size` x `size`) are read as `load_folder` says. Raises `InputError` as it does.
    """
    return _read({"all": list_labelled(folder, classes)}, size, "crop", Display())["all"]


def _read(parts: dict[str, LabelledFiles], size: int, resize: Resize, display: Display) -> dict[str, Split]:
    """Read all images into one tensor, of which the splits are views."""
    paths = [path for files in parts.values() for path in files.paths]
    if (needed := len(paths) * 3 * size**2) > LARGE:
        display.say(f"reading {len(paths):,} images of {size} x {size} pixels: {needed / 1e9:.1f} GB of memory")
    with display.task("reading images") as task:
        images = read_images(paths, size, resize, progress=task)
    pieces = images.split([len(files.paths) for files in parts.values()])
    return {
        name: Split(piece, torch.tensor(files.labels), files.names)
        for (name, files), piece in zip(parts.items(), pieces, strict=True)
    }
