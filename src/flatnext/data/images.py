"""Image files as one tensor, and images at another size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flatnext.errors import InputError
from flatnext.pictures import PictureError, Resize, read_picture
from flatnext.progress import Progress, silent


def read_images(
    paths: Sequence[Path],
    size: int,
    resize: Resize = "crop",
    channels: int = 3,
    *,
    skip_damaged: bool = False,
    progress: Progress = silent,
) -> tuple[Tensor, list[int], list[PictureError]]:
    """Return image files as one uint8 tensor, N x `channels` x `size` x `size`, which is channels-last in memory.

    They are read by `read_picture`. Beside the tensor come the places in `paths` of the images in it, and why the
    others are not: that may be only with `skip_damaged`. Without it `InputError` names all files that cannot be read.
    """
    images = np.empty((len(paths), size, size, channels), np.uint8)
    read: list[int] = []
    failures: list[PictureError] = []
    for index, path in enumerate(paths):
        try:
            images[len(read)] = read_picture(path, size=size, resize=resize, channels=channels)
            read.append(index)
        except PictureError as error:
            failures.append(error)
        progress(index + 1, len(paths))
    if failures and not skip_damaged:
        count = "" if len(failures) == 1 else f"{len(failures)} files: "
        raise InputError(
            f"{count}{named(failures)} cannot be read as an image: repair or remove it, or leave such files out "
            "(--skip-damaged, where the command has it)"
        )
    return torch.from_numpy(images[: len(read)]).permute(0, 3, 1, 2), read, failures


def named(failures: Sequence[PictureError]) -> str:
    """Return the files that could not be read, and why, in one line."""
    return ", ".join(f"{error.source} ({error.reason})" for error in failures)


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


def with_channels(images: Tensor, channels: int) -> Tensor:
    """Return uint8 images (N x C x H x W, C 1 or 3) as RGB or grey, in the memory layout they have.

    Grey is Pillow's luma (ITU-R 601-2), colour from grey has equal channels. Images that have so many channels are
    returned as they are.
    """
    if images.shape[1] == channels:
        return images
    return luma(images)[:, None].to(torch.uint8) if channels == 1 else images.repeat(1, channels, 1, 1)


def luma(images: Tensor) -> Tensor:
    """Return the grey values (int64, N x H x W) of uint8 images (N x C x H x W) as Pillow has them."""
    if images.shape[1] == 1:
        return images[:, 0].long()
    red, green, blue = images.long().unbind(1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
