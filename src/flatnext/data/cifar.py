"""CIFAR-10 and CIFAR-100 from the published files, in the Python or the binary layout.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, with the files and MD5 sums at
https://www.cs.toronto.edu/~kriz/cifar.html. In both layouts an image is 3072 bytes: 32 rows of 32 pixels in red,
then in green, then in blue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from flatnext.data.archive import Archive, fetch, unpack
from flatnext.data.dataset import Split
from flatnext.data.unpickler import read_pickle
from flatnext.errors import InputError
from flatnext.files import open_regular
from flatnext.words import counted

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a published version of a data set lies on disk."""

    archive: Archive
    md5: dict[str, str]
    """The published MD5 of each file of images, of which the last is the test set."""
    meta: str
    """The file with the names of the classes."""
    classes: int
    names_key: str = ""
    """In the meta file of the Python layout: where the class names are."""
    labels_key: str = ""
    """In a batch of the Python layout: where the labels are. Empty: the binary layout."""
    label_bytes: int = 1
    """In a record of the binary layout: bytes before the pixels, the last of which is the label."""

    @property
    def train(self) -> tuple[str, ...]:
        """The files of training images."""
        return tuple(self.md5)[:-1]

    @property
    def test(self) -> str:
        """The file of test images."""
        return tuple(self.md5)[-1]


LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "cifar10": (
        Layout(
            archive=Archive("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", "cifar-10-batches-py"),
            md5={
                "data_batch_1": "c99cafc152244af753f735de768cd75f",
                "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                "data_batch_4": "634d18415352ddfa80567beed471001a",
                "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
                "test_batch": "40351d587109b95175f43aff81a1287e",
            },
            meta="batches.meta",
            classes=10,
            names_key="label_names",
            labels_key="labels",
        ),
        Layout(
            archive=Archive("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", "cifar-10-batches-bin"),
            md5={
                "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
                "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
                "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
                "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
                "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
                "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
            },
            meta="batches.meta.txt",
            classes=10,
        ),
    ),
    "cifar100": (
        Layout(
            archive=Archive("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", "cifar-100-python"),
            md5={"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
            meta="meta",
            classes=100,
            names_key="fine_label_names",
            labels_key="fine_labels",
        ),
        Layout(
            archive=Archive("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", "cifar-100-binary"),
            md5={"train.bin": "6172c7755cfe09b2fe270c85cebc1b15", "test.bin": "4499cfba6c016c1be1438163640a0898"},
            meta="fine_label_names.txt",
            classes=100,
            label_bytes=2,
        ),
    ),
}


def load_cifar(
    name: str, data_dir: Path, *, download: bool = True, progress: bool = False
) -> tuple[tuple[str, ...], Split, Split]:
    """Return classes, training and test images of `cifar10` or `cifar100` (its fine labels).

    They are read from the folder of either layout, which `data_dir` is or holds. Where it is missing, a published
    archive in `data_dir` is unpacked there; where that is missing, the archive of the Python layout is downloaded. A
    batch may have any number of images. Raises `InputError` for files that are missing or damaged.
    """
    layout, folder = find(name, data_dir) or _unpack(name, data_dir, download=download, progress=progress)
    return (
        _read_classes(folder / layout.meta, layout),
        _read(folder, layout.train, layout),
        _read(folder, (layout.test,), layout),
    )


def find(name: str, data_dir: Path) -> tuple[Layout, Path] | None:
    """Return the layout in which the set lies in `data_dir`, and its folder; None where it does not."""
    for layout in LAYOUTS[name]:
        if (data_dir / layout.archive.folder).is_dir():
            return layout, data_dir / layout.archive.folder
    for layout in LAYOUTS[name]:
        if (data_dir / layout.train[0]).is_file():
            return layout, data_dir
    return None


def lies_in(name: str, data_dir: Path) -> bool:
    """Return whether the set, or an archive of it, lies in `data_dir`."""
    archives = (data_dir / layout.archive.name for layout in LAYOUTS[name])
    return find(name, data_dir) is not None or any(archive.is_file() for archive in archives)


def require_files(name: str, data_dir: Path) -> None:
    """Raise `InputError` unless the set, or an archive of it, lies in `data_dir`."""
    if not lies_in(name, data_dir):
        folders = " or ".join(layout.archive.folder for layout in LAYOUTS[name])
        raise InputError(f"{data_dir} holds no {folders}: allow the download, or give another data_dir")


def _unpack(name: str, data_dir: Path, *, download: bool, progress: bool) -> tuple[Layout, Path]:
    """Unpack the archive in `data_dir`, or a downloaded one; return as `find` does."""
    for layout in LAYOUTS[name]:
        if (data_dir / layout.archive.name).is_file():
            return layout, unpack(layout.archive, data_dir)
    if not download:
        require_files(name, data_dir)
    layout = LAYOUTS[name][0]
    return layout, fetch(layout.archive, data_dir, progress=progress)


def _read(folder: Path, names: Sequence[str], layout: Layout) -> Split:
    read = _read_python if layout.labels_key else _read_binary
    images, labels = zip(*(read(folder / name, layout) for name in names), strict=True)
    return Split(torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels)))


def _read_python(path: Path, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    batch = read_pickle(path)
    data, labels = batch.get("data"), batch.get(layout.labels_key)
    if not (isinstance(data, np.ndarray) and data.ndim == 2 and data.shape[1] == PIXELS and len(data) > 0):
        raise InputError(f"{path} has no 'data' of N x {PIXELS} bytes: replace it by the published file")
    if not (isinstance(labels, list) and len(labels) == len(data) and all(type(label) is int for label in labels)):
        raise InputError(
            f"{path} has not one of {layout.labels_key!r} for each image: replace it by the published file"
        )
    return data.reshape(-1, *SHAPE), _check_labels(np.array(labels, dtype=object), path, layout)


def _read_binary(path: Path, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    try:
        with open_regular(path) as file:
            content = np.frombuffer(file.read(), np.uint8)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): put the published file there") from None
    record = layout.label_bytes + PIXELS
    if len(content) == 0 or len(content) % record:
        size = counted(len(content), "byte")
        raise InputError(f"{path} has {size}, not a multiple of {record}: it is truncated, replace it")
    records = content.reshape(-1, record)
    return (
        records[:, layout.label_bytes :].reshape(-1, *SHAPE),
        _check_labels(records[:, layout.label_bytes - 1], path, layout),
    )


def _check_labels(labels: np.ndarray, path: Path, layout: Layout) -> np.ndarray:
    if labels.min() < 0 or labels.max() >= layout.classes:
        raise InputError(f"{path} has labels outside 0 to {layout.classes - 1}: replace it by the published file")
    return labels.astype(np.int64)


def _read_classes(path: Path, layout: Layout) -> tuple[str, ...]:
    if layout.names_key:
        names = read_pickle(path).get(layout.names_key)
    else:
        try:
            with open_regular(path) as file:
                names = file.read().decode("utf-8").split()
        except (OSError, UnicodeDecodeError):
            raise InputError(f"{path} cannot be read: put the published file there") from None
    if not (isinstance(names, list) and len(names) == layout.classes and all(isinstance(name, str) for name in names)):
        raise InputError(f"{path} has not {layout.classes} class names: replace it by the published file")
    return tuple(names)
