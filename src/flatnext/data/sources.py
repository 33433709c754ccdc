"""The data sets by name."""

from __future__ import annotations

from pathlib import Path

from flatnext import config
from flatnext.data.cifar import LAYOUTS, load_cifar, require_files
from flatnext.data.dataset import Dataset, Split
from flatnext.data.digits import load_digits
from flatnext.data.folder import check_folder, load_folder
from flatnext.data.images import resize_images
from flatnext.data.normalization import CIFAR10, Normalization
from flatnext.errors import InputError, choose
from flatnext.pictures import Resize
from flatnext.progress import ConsoleDisplay, Display

NAMES = (*LAYOUTS, "digits", "folder")


def check_place(name: str, data_dir: Path | str, *, download: bool = True) -> None:
    """Raise `InputError` if there is clearly no data set `name` in `data_dir`. Reads no images and takes no time."""
    if name == "folder":
        check_folder(Path(data_dir))
    elif name in LAYOUTS and not download:
        require_files(name, Path(data_dir))


def load_by(settings: config.Data, data_dir: Path | str, *, download: bool = True, progress: bool = False) -> Dataset:
    """Return the data set that settings choose, read as they say; see `load`. Other settings are not used."""
    return load(
        settings.dataset,
        data_dir,
        image_size=settings.image_size,
        resize=settings.resize,
        download=download,
        progress=progress,
    )


def load(
    name: str,
    data_dir: Path | str = ".data",
    *,
    image_size: int | None = None,
    resize: Resize = "crop",
    download: bool = True,
    progress: bool = False,
) -> Dataset:
    """Return the data set `name`: cifar10, cifar100, digits, or folder (of images, in `data_dir`).

    With `image_size` the images are resized to so many pixels a side; those of a folder become squares by `resize`, as
    `flatnext.pictures.square` says. Where `download` is true, CIFAR is fetched into `data_dir` if it is not there. With
    `progress` that and the reading of a folder show a bar. CIFAR-10 is normalised as in the baseline paper, the others
    by the statistics of their training images. Raises `InputError`, and leaves no file behind then.
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"image_size is {image_size}: give at least 1")
    data_dir = Path(data_dir)
    if name == "folder":
        return load_folder(data_dir, image_size, resize, ConsoleDisplay() if progress else Display())
    if name in LAYOUTS:
        classes, train, test = load_cifar(name, data_dir, download=download, progress=progress)
    elif name == "digits":
        classes, train, test = load_digits()
    else:
        raise InputError(f"unknown dataset {name!r}: {choose(name, NAMES)}")
    if image_size is not None:
        train, test = (Split(resize_images(split.images, image_size), split.labels) for split in (train, test))
    normalization = CIFAR10 if name == "cifar10" else Normalization.of(train.images)
    return Dataset(name=name, classes=classes, train=train, test=test, normalization=normalization)
