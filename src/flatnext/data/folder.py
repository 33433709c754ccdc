"""A folder of images, one subfolder a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from flatnext.data.dataset import Dataset, Split
from flatnext.data.images import named, read_images
from flatnext.data.layout import LabelledFiles, files_notes, list_labelled, read_layout
from flatnext.data.normalization import Normalization
from flatnext.data.splits import copies, divide, hold_out_by_name
from flatnext.errors import InputError
from flatnext.listing import require_folder
from flatnext.pictures import Resize, is_grey
from flatnext.progress import Display, printable
from flatnext.words import counted, shortened

IMAGE_SIZE = 32
TEST_SHARE = 1 / 5
TEST_SALT = "test"
LARGE = 10**9
"""Bytes of images from which on their number is said before they are read."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the images of a folder are read; `flatnext.pictures.read_picture` says what it means.

    `channels` None: 1 where all image files have one channel, else 3. With `skip_damaged` files that cannot be read are
    left out, and named in the notes.
    """

    size: int = IMAGE_SIZE
    resize: Resize = "crop"
    channels: int | None = None
    skip_damaged: bool = False


def load_folder(data_dir: Path, reading: Reading | None = None, display: Display | None = None) -> Dataset:
    """Return the data set in a folder. Its classes are the names of the class folders, sorted.

    `data_dir` holds `train/CLASS/*` and `test/CLASS/*`, and perhaps `val/CLASS/*`, which are then the validation
    images; without `test` they are the test images. `valid` and `validation` are other names of `val`; all may be in
    any letter case. Or it holds `CLASS/*` alone, perhaps with `test` or `val` beside: without, a fifth of each class is
    the test set, drawn by `hold_out_by_name`. A `test` or `val` with images in no class folders is not used.

    A class folder may have folders in it, whose images count for the class. Files are images by their content. What is
    not used, hidden and system files among it, is counted in the data set's notes.

    Raises:
        InputError: the folder has not two classes, a class has no images or a name that is no text, or images cannot
            be read, all of which are named.
    """
    reading, display = reading or Reading(), display or Display()
    require_folder(data_dir)
    layout = read_layout(data_dir)
    parts = {name: files for name in ("train", "validation", "test") if (files := getattr(layout, name)) is not None}
    splits, notes = _read(parts, reading, display)
    train, test = splits["train"], splits.get("test")
    _check_classes(data_dir, layout.classes, train)
    if test is None:
        train, test = divide(train, *hold_out_by_name(train, TEST_SHARE, TEST_SALT), overwrite=True)
    if test is None:
        raise InputError(
            f"{data_dir} has one image of each class, which leaves none for the test: give at least two of each, or "
            f"{data_dir / 'test'} with class folders"
        )
    return Dataset(
        name=f"folder {printable(data_dir.resolve().name)}",
        classes=layout.classes,
        train=train,
        validation=splits.get("validation"),
        test=test,
        normalization=Normalization.of(train.images),
        notes=(
            *layout.notes,
            *notes,
            *_untested(layout.classes, test),
            *copies(train, validation=splits.get("validation"), test=test),
        ),
    )


def read_labelled(folder: Path, classes: Sequence[str], reading: Reading) -> tuple[Split, tuple[str, ...]]:
    """Return the images in a folder's class folders, sorted by class and file name, and notes on those not used.

    Labels are indices into `classes`. The images are read as `load_folder` says. Raises `InputError` as it does.
    """
    files = list_labelled(folder, classes)
    splits, notes = _read({"all": files}, reading, Display())
    return splits["all"], (*files_notes(folder, [], files.others, []), *notes)


def _read(
    parts: dict[str, LabelledFiles], reading: Reading, display: Display
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Read all images into one tensor, of which the splits are views; return notes on those that were skipped."""
    paths = [path for files in parts.values() for path in files.paths]
    channels = reading.channels or (1 if all(map(is_grey, paths)) else 3)
    if (needed := len(paths) * channels * reading.size**2) > LARGE:
        size = f"{reading.size} x {reading.size} pixels"
        display.say(f"reading {counted(len(paths), 'image')} of {size}: {needed / 1e9:.1f} GB of memory")
    with display.task("reading images") as task:
        images, places, failures = read_images(
            paths, reading.size, reading.resize, channels, skip_damaged=reading.skip_damaged, progress=task
        )
    read = torch.zeros(len(paths), dtype=torch.bool)
    read[places] = True
    splits, first = {}, 0
    for name, files in parts.items():
        kept = read.narrow(0, first, len(files.paths))
        first += len(files.paths)
        piece, images = images.tensor_split([int(kept.sum())])
        names = tuple(name for name, used in zip(files.names, kept.tolist(), strict=True) if used)
        splits[name] = Split(piece, torch.tensor(files.labels)[kept], names)
    were = "was" if len(failures) == 1 else "were"
    note = f"{counted(len(failures), 'file')} that cannot be read {were} left out: {named(failures)}"
    return splits, (note,) if failures else ()


def _untested(classes: Sequence[str], test: Split) -> tuple[str, ...]:
    """Return a note on classes of which no image is in the test set."""
    counts = torch.bincount(test.labels, minlength=len(classes)).tolist()
    names = [printable(name) for name, count in zip(classes, counts, strict=True) if not count]
    return (f"no test images of {shortened(names)}: the test says nothing about them",) if names else ()


def _check_classes(data_dir: Path, classes: Sequence[str], train: Split) -> None:
    """Raise `InputError` where a class has no images left to train on."""
    counts = torch.bincount(train.labels, minlength=len(classes)).tolist()
    if 0 in counts:
        raise InputError(
            f"{data_dir}: no image of the class {classes[counts.index(0)]} can be read: repair some, or remove it"
        )
