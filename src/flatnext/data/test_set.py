"""Another test set for a trained model: images of the same classes, from a folder or from NumPy's files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from flatnext.data.dataset import Split
from flatnext.data.folder import Reading, read_labelled
from flatnext.data.images import with_channels
from flatnext.errors import InputError, warn_of_fallback
from flatnext.files import open_regular
from flatnext.listing import list_images, subfolders
from flatnext.pictures import Resize, square
from flatnext.progress import printable
from flatnext.words import counted

DATA, LABELS = "_data.npy", "_labels.npy"
KEYS = (("images", "labels"), ("data", "labels"), ("x", "y"), ("x_test", "y_test"))
FORMS = f"a folder of class folders, an .npz file, or NAME{DATA} beside NAME{LABELS}"


def read_test_set(
    path: Path | str,
    classes: Sequence[str],
    image_size: int,
    *,
    channels: int = 3,
    resize: Resize = "crop",
    skip_damaged: bool = False,
) -> Split:
    """Return the images (uint8, N x `channels` x `image_size` x `image_size`) and labels (int64) of a test set on disk.

    Images are read and resized as those of a folder data set, grey ones become RGB or the reverse: see
    `flatnext.pictures.read_picture`. (`load` resizes CIFAR and the digits bilinearly. For a model that was trained on
    them at another size, give images that were resized in the same way.) A `FallbackWarning` names files in a folder
    that are not used.

    Args:
        path: one of three forms.

            - A folder with a subfolder of images for each class, or for some of them, named exactly as the class.
            - An `.npz` file with `images` and `labels` (CIFAR-10.2), or `data` and `labels`, `x` and `y`, `x_test` and
              `y_test` (Keras).
            - `NAME_data.npy`, which has `NAME_labels.npy` beside it, or a folder with one such pair, as CIFAR-10.1 is
              published (https://github.com/modestyachts/CIFAR-10.1).

            Arrays of images are uint8, N x H x W x 3 or N x 3 x H x W: the channels are where the 3 is; grey ones have
            1 instead, or are N x H x W. Labels are integers, N or N x 1, indices into `classes`. Pickled objects are
            not read.
        classes: the names that the model knows, in the order of its logits.
        image_size: pixels a side of the images that the model takes.
        channels: of these images, 3 or 1.
        resize: how they were made square; see `flatnext.pictures.square`.
        skip_damaged: leave out the files of a folder that cannot be read, which the warning then names.

    Raises:
        InputError: the set is missing, empty or damaged, has none of these forms or two, a class that the model does
            not know, or another number of labels than of images.
    """
    if image_size < 1:
        raise InputError(f"image_size is {image_size}: give at least 1")
    location = _locate(Path(path))
    if location.is_dir():
        reading = Reading(size=image_size, resize=resize, channels=channels, skip_damaged=skip_damaged)
        return _read_folder(location, classes, reading)
    read = _read_npz if location.suffix == ".npz" else _read_pair
    (images, images_name), (labels, labels_name) = read(location)
    pixels = _resized(_with_channels(_channels_last(images, images_name), channels), image_size, resize)
    numbers = _check_labels(labels, labels_name, len(pixels), len(classes))
    return Split(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), torch.from_numpy(numbers))


def test_set_name(path: Path | str) -> str:
    """Return the name of a test set: `cifar10.1_v6` for `cifar10.1_v6_data.npy` or the folder that holds it.

    An `.npz` file has its name without the suffix, a folder of class folders its own. Raises `InputError` where
    there is none of these.
    """
    location = _locate(Path(path))
    if location.is_dir():
        return printable(location.resolve().name)
    return printable(location.stem if location.suffix == ".npz" else location.name.removesuffix(DATA))


def _locate(path: Path) -> Path:
    """Return the folder of class folders, the .npz file, or the data file of a pair that `path` stands for."""
    if not path.exists():
        raise InputError(f"{path} does not exist: give {FORMS}")
    if not path.is_dir():
        if path.suffix == ".npz" or path.name.endswith(DATA):
            return path
        raise InputError(f"{path} is not a test set: give {FORMS}")
    pairs = sorted(file for file in path.glob(f"*{DATA}") if not file.name.startswith("."))
    if len(pairs) > 1:
        raise InputError(f"{path} holds {len(pairs)} test sets: give one, {' or '.join(map(str, pairs))}")
    if pairs and subfolders(path):
        raise InputError(f"{path} holds folders and {pairs[0].name}: give {pairs[0]}, or move it away")
    if not pairs and not subfolders(path):
        raise InputError(f"{path} holds no test set: give {FORMS}")
    return pairs[0] if pairs else path


def _read_folder(folder: Path, classes: Sequence[str], reading: Reading) -> Split:
    for child in subfolders(folder):
        if child.name not in classes:
            raise InputError(
                f"{child} is not a class of the model: rename or remove it, or give the folder that has the class "
                f"folders; the classes are {', '.join(classes)}"
            )
        if not list_images(child).images:
            raise InputError(f"{child} holds no images: add some, or remove the folder")
    split, notes = read_labelled(folder, classes, reading)
    for note in notes:
        warn_of_fallback(note)
    if not len(split):
        raise InputError(f"{folder}: no image can be read: repair some, or give another test set")
    return split


Named = tuple[np.ndarray, str]
"""An array, and its name in messages."""


def _read_pair(path: Path) -> tuple[Named, Named]:
    partner = path.with_name(path.name.removesuffix(DATA) + LABELS)
    if not partner.is_file():
        raise InputError(f"{partner} is missing: put the labels of {path.name} there")
    return (_load(path), str(path)), (_load(partner), str(partner))


def _load(path: Path) -> np.ndarray:
    try:
        with open_regular(path) as file:
            return np.load(file, allow_pickle=False)
    except InputError:
        raise
    except Exception as error:  # NumPy's reader raises many kinds, SyntaxError and MemoryError among them
        raise _unreadable(path, error) from None


def _read_npz(path: Path) -> tuple[Named, Named]:
    try:
        # NumPy would leave a file open whose archive is damaged.
        with open_regular(path) as stream, np.load(stream, allow_pickle=False) as file:
            pairs = [pair for pair in KEYS if set(pair) <= set(file.files)]
            if len(pairs) == 1:
                images, labels = ((_array(file[key]), f"{key!r} in {path}") for key in pairs[0])
                return images, labels
            names = ", ".join(file.files) or "nothing"
    except InputError:
        raise
    except Exception as error:  # those of zipfile and zlib too; a plain array, which has no `with`, is a TypeError
        raise _unreadable(path, error) from None
    pairs_of_names = ", or ".join(" and ".join(pair) for pair in KEYS)
    raise InputError(f"{path} holds {names}: give one pair of arrays named {pairs_of_names}")


def _array(content: np.ndarray | bytes) -> np.ndarray:
    if isinstance(content, bytes):  # NumPy returns so what does not begin like an .npy file
        raise ValueError("not an array")
    return content


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} cannot be read ({type(error).__name__}): replace it by a complete {path.suffix} file of plain arrays, "
        "without pickled objects"
    )


def _channels_last(images: np.ndarray, name: str) -> np.ndarray:
    """Return images as N x H x W x C, C 3 or 1."""
    form = f"{name} is {images.dtype} {images.shape}"
    if images.dtype != np.uint8:
        raise InputError(f"{form}: give images as uint8, 0 to 255")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not {images.shape[1], images.shape[3]} & {1, 3}:
        raise InputError(f"{form}: give images N x H x W x 3 or N x 3 x H x W, or grey ones N x H x W")
    if images.size == 0:
        raise InputError(f"{form}: give at least one image")
    if {images.shape[1], images.shape[3]} <= {1, 3}:
        raise InputError(f"{form}, so that channels may come first or last: give images more than 3 pixels high")
    return images if images.shape[3] in (1, 3) else images.transpose(0, 2, 3, 1)


def _with_channels(images: np.ndarray, channels: int) -> np.ndarray:
    first = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return with_channels(first, channels).numpy().transpose(0, 2, 3, 1)


def _resized(images: np.ndarray, size: int, resize: Resize) -> np.ndarray:
    if images.shape[1:3] == (size, size):
        return images
    pictures = images[..., 0] if images.shape[3] == 1 else images
    return np.stack([square(Image.fromarray(np.ascontiguousarray(image)), size, resize) for image in pictures])


def _check_labels(labels: np.ndarray, name: str, count: int, classes: int) -> np.ndarray:
    """Return labels as int64, N."""
    if labels.dtype.kind not in "iu" or labels.ndim == 0 or labels.shape[1:] not in ((), (1,)):
        raise InputError(f"{name} is {labels.dtype} {labels.shape}: give N integers")
    if len(labels) != count:
        raise InputError(f"{name} has {counted(len(labels), 'label')} for {counted(count, 'image')}: give one for each")
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(
            f"{name} has labels from {labels.min()} to {labels.max()}: the model knows {classes} classes, so give "
            f"0 to {classes - 1}"
        )
    return labels.reshape(-1).astype(np.int64)
