"""The data sets by name."""

from __future__ import annotations

from pathlib import Path

from flatnext import config
from flatnext.data.cifar import LAYOUTS, load_cifar, require_files
from flatnext.data.dataset import Dataset, Split
from flatnext.data.digits import load_digits
from flatnext.data.folder import IMAGE_SIZE, Reading, load_folder
from flatnext.data.images import resize_images, with_channels
from flatnext.data.normalization import CIFAR10, Normalization
from flatnext.errors import InputError, choose
from flatnext.listing import require_folder
from flatnext.pictures import Resize
from flatnext.progress import ConsoleDisplay, Display

NAMES = (*LAYOUTS, "digits", "folder")


def check_place(name: str, data_dir: Path | str, *, download: bool = True) -> None:
    """Raise `InputError` if there is clearly no data set `name` in `data_dir`. Reads no images and takes no time."""
    if name == "folder":
        require_folder(Path(data_dir))
    elif name in LAYOUTS and not download:
        require_files(name, Path(data_dir))


def load_by(
    settings: config.Data,
    data_dir: Path | str,
    *,
    channels: int | None = None,
    download: bool = True,
    progress: bool = False,
) -> Dataset:
    """Return the data set that settings choose, read as they say, with `channels` where that is given; see `load`."""
    return load(
        settings.dataset,
        data_dir,
        image_size=settings.image_size,
        resize=settings.resize,
        channels=channels or settings.channels,
        skip_damaged=settings.skip_damaged,
        download=download,
        progress=progress,
    )


def load(
    name: str,
    data_dir: Path | str = ".data",
    *,
    image_size: int | None = None,
    resize: Resize = "crop",
    channels: int | None = None,
    skip_damaged: bool = False,
    download: bool = True,
    progress: bool = False,
) -> Dataset:
    """Return the data set `name`: cifar10, cifar100, digits, or folder (of images, in `data_dir`).

    Args:
        name: of the data set.
        data_dir: where it lies, or CIFAR is downloaded to.
        image_size: pixels a side, to which the images are resized (default: their size; of a folder 32).
        resize: how the images of a folder become squares; `flatnext.pictures.square` says what the words mean.
        channels: 3 for RGB, 1 for grey (default: 3, but 1 for a folder whose files all have one channel).
        skip_damaged: leave out the files of a folder that cannot be read, and name them in the notes.
        download: whether CIFAR is fetched if it is not there.
        progress: whether to show a bar for that, and for the reading of a folder.

    CIFAR-10 is normalised as in the baseline paper, the others by the statistics of their training images. Raises
    `InputError`, and leaves no file behind then.
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"image_size is {image_size}: give at least 1")
    data_dir = Path(data_dir)
    if name == "folder":
        reading = Reading(size=image_size or IMAGE_SIZE, resize=resize, channels=channels, skip_damaged=skip_damaged)
        return load_folder(data_dir, reading, ConsoleDisplay() if progress else Display())
    if name in LAYOUTS:
        classes, train, test = load_cifar(name, data_dir, download=download, progress=progress)
    elif name == "digits":
        classes, train, test = load_digits()
    else:
        folder = f"; for the images in {name}: dataset 'folder', data_dir {name!r}" if Path(name).is_dir() else ""
        raise InputError(f"unknown dataset {name!r}: {choose(name, NAMES)}{folder}")
    if image_size is not None:
        train, test = (Split(resize_images(split.images, image_size), split.labels) for split in (train, test))
    if channels is not None:
        train, test = (Split(with_channels(split.images, channels), split.labels) for split in (train, test))
    normalization = CIFAR10 if name == "cifar10" and channels != 1 else Normalization.of(train.images)
    return Dataset(name=name, classes=classes, train=train, test=test, normalization=normalization)
