"""Image files, and images at another size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from flatnext.errors import InputError

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder by their suffixes, sorted; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def read_image(path: Path, size: int) -> np.ndarray:
    """Return an image file as `size` x `size` x 3 bytes: rotated as its EXIF data say, in RGB, cropped to a square.

    Raises `InputError` for a file that cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            return fit_square(_as_rgb(ImageOps.exif_transpose(image)), size)
    except Exception as error:  # Pillow's readers raise many kinds, SyntaxError and DecompressionBombError among them
        raise InputError(f"{path} cannot be read as an image ({type(error).__name__}): repair or remove it") from None


def fit_square(image: Image.Image, size: int) -> np.ndarray:
    """Return an RGB image as `size` x `size` x 3 bytes: its shorter side resized by Lanczos, its middle kept."""
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would turn all of 16-bit grey above 255 into white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def resize(images: Tensor, size: int, chunk: int = 500) -> Tensor:
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
