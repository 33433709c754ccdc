"""The published files of CIFAR-10-C: https://zenodo.org/records/2535967 (arXiv 1903.12261).

A file a corruption, NAME.npy, uint8, 50,000 x 32 x 32 x 3: the 10,000 test images at severity 1, then at severity 2 and
so on; and labels.npy, 50,000 labels in the same order. CIFAR-100-C is laid out alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flatnext.errors import InputError
from flatnext.evaluation.corruptions.draws import Array
from flatnext.evaluation.corruptions.table import NAMES, SEVERITIES, check_name, check_severity
from flatnext.files import open_regular

FOLDER = "CIFAR-10-C"


@dataclass(frozen=True, kw_only=True, eq=False)
class Cifar10C:
    """Corrupted images on disk, and the labels (int64, N) that those of each severity have."""

    folder: Path
    files: Mapping[str, Array]
    """By the corruption's name: uint8, 5 N x 32 x 32 x 3, read from the disk as it is used."""
    labels: Tensor

    def images(self, name: str, severity: int, start: int = 0, stop: int | None = None) -> Tensor:
        """Return images `start` to `stop` of a corruption at a severity: uint8, n x 3 x 32 x 32."""
        check_severity(severity)
        if name not in self.files:
            raise InputError(f"{name}.npy was not read from {self.folder}: name it in read_cifar10_c")
        count = len(self.labels)
        first, last, _ = slice(start, stop).indices(count)
        pixels = self.files[name][(severity - 1) * count :][first:last]
        return torch.from_numpy(np.array(pixels.transpose(0, 3, 1, 2), order="C"))


def read_cifar10_c(folder: Path | str, names: Iterable[str] = NAMES) -> Cifar10C:
    """Open the files of the corruptions `names` in `folder`, which is or holds `CIFAR-10-C`.

    Raises:
        InputError: a file is missing, damaged, or of another shape; a name is that of no corruption.
    """
    folder = Path(folder)
    folder = folder / FOLDER if (folder / FOLDER).is_dir() else folder
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give the one with the .npy files of {FOLDER}")
    labels = _read_labels(folder / "labels.npy")
    wanted = tuple(names)
    for name in wanted:
        check_name(name)
    files = {name: _read_images(folder / f"{name}.npy", len(labels) * len(SEVERITIES)) for name in wanted}
    return Cifar10C(folder=folder, files=files, labels=labels)


def _read_labels(path: Path) -> Tensor:
    labels = _open(path)
    if labels.ndim != 1 or len(labels) == 0 or len(labels) % len(SEVERITIES) or labels.dtype.kind not in "iu":
        raise InputError(f"{path} is {labels.dtype} {labels.shape}, not 50000 whole numbers: replace it")
    each = np.array(labels, np.int64).reshape(len(SEVERITIES), -1)
    if (each != each[0]).any() or each.min() < 0:
        raise InputError(f"{path} has not the same labels at each severity: replace it by the published file")
    return torch.from_numpy(each[0].copy())


def _read_images(path: Path, count: int) -> Array:
    pixels = _open(path)
    shape = (count, 32, 32, 3)
    if pixels.dtype != np.uint8 or pixels.shape != shape:
        raise InputError(f"{path} is {pixels.dtype} {pixels.shape}, not uint8 {shape}: replace it")
    return pixels


def _open(path: Path) -> Array:
    try:
        open_regular(path).close()  # on a pipe, NumPy would wait
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: put the published file there") from None
    except InputError:
        raise
    except (OSError, ValueError, EOFError):
        raise InputError(f"{path} is no whole .npy file: replace it by the published file") from None
