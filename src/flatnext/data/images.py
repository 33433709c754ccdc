"""Image files as one tensor, and images at another size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flatnext.errors import InputError
from flatnext.pictures import PictureError, Resize, is_picture, read_picture
from flatnext.progress import Progress, silent

SYSTEM = (
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
    *("__macosx", "@eadir", "$recycle.bin", "lost+found", "__pycache__"),
)
"""Names, in lower case, of what file systems and file managers leave in a folder."""


def entries(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted, but for hidden and system files. `InputError`: it cannot be read."""
    try:
        return sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.name.lower() not in SYSTEM)
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}): make it readable, or remove it") from None


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, but for hidden and system ones."""
    return [path for path in entries(folder) if path.is_dir()]


def list_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the images in a folder, and what else is in it, each sorted; none where there is no such folder."""
    images: list[Path] = []
    others: list[Path] = []
    for path in entries(folder) if folder.is_dir() else ():
        (images if is_picture(path) else others).append(path)
    return images, others


def read_images(
    paths: Sequence[Path], size: int, mode: Resize = "crop", channels: int = 3, progress: Progress = silent
) -> Tensor:
    """Return image files as one uint8 tensor, N x `channels` x `size` x `size`, which is channels-last in memory.

    They are read by `read_picture`. Raises `InputError`, naming all files that cannot be read.
    """
    images = np.empty((len(paths), size, size, channels), np.uint8)
    failures: list[PictureError] = []
    for index, path in enumerate(paths):
        try:
            images[index] = read_picture(path, size=size, resize=mode, channels=channels)
        except PictureError as error:
            failures.append(error)
        progress(index + 1, len(paths))
    if failures:
        count = "" if len(failures) == 1 else f"{len(failures)} files: "
        named = ", ".join(f"{error.source} ({error.reason})" for error in failures)
        raise InputError(f"{count}{named} cannot be read as an image: repair or remove it")
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def resize_images(images: Tensor, size: int, chunk: int = 500) -> Tensor:
    """Return uint8 images (N x C x H x W) at `size` x `size` pixels, in the memory layout they have.

    Bilinear with antialiasing (as Pillow's: a triangular filter that widens where images shrink), rounded to the
    nearest whole number. `chunk` images at a time are floats. Images of that size are returned as they are.
    """
    if images.shape[2:] == (size, size):
        return images
    layout = torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    shape = (*images.shape[:2], size, size)
    result = torch.empty(shape, dtype=torch.uint8, device=images.device, memory_format=layout)
    for part, resized in zip(images.split(chunk), result.split(chunk), strict=True):
        pixels = F.interpolate(part.float(), size=(size, size), mode="bilinear", antialias=True)
        resized.copy_(pixels.round_().clamp_(0, 255))
    return result
