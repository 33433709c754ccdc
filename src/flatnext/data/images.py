"""Image files, known by their content, and images at another size."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from flatnext.errors import InputError
from flatnext.files import open_regular
from flatnext.progress import Progress, silent

FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
"""A file with one of these is meant as an image: where it cannot be read, that is an error."""

SYSTEM = (
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
    *("__macosx", "@eadir", "$recycle.bin", "lost+found", "__pycache__"),
)
"""Names, in lower case, of what file systems and file managers leave in a folder."""

DRAFT = 2
"""A JPEG is decoded at an eighth, quarter or half of its size where that has so many times the pixels asked for."""


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
    """Return the images in a folder, and what else is in it, each sorted; none where there is no such folder.

    An image is what begins as one, whatever its suffix, and what has an image's suffix or is no regular file, so that
    reading it tells what is wrong with it.
    """
    images: list[Path] = []
    others: list[Path] = []
    for path in entries(folder) if folder.is_dir() else ():
        (images if _is_image(path) else others).append(path)
    return images, others


def _is_image(path: Path) -> bool:
    if path.is_dir():
        return False
    if path.suffix.lower() in SUFFIXES or not path.is_file():
        return True
    try:
        with open_regular(path) as file, Image.open(file, formats=_formats()):
            return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # Pillow's readers raise many kinds
        return False


@functools.cache
def _formats() -> list[str]:
    """Return those of `FORMATS` that this Pillow reads."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def read_images(paths: Sequence[Path], size: int, progress: Progress = silent) -> Tensor:
    """Return image files as one uint8 tensor, N x 3 x `size` x `size`, which is channels-last in memory.

    An image is rotated as its EXIF data say, put on white where it is transparent, converted to RGB, and scaled and
    cropped as `fit_square` says. Raises `InputError`, naming all files that cannot be read.
    """
    images = np.empty((len(paths), size, size, 3), np.uint8)
    failures = []
    with _quiet():
        for index, path in enumerate(paths):
            try:
                images[index] = _read_image(path, size)
            except Exception as error:  # Pillow's readers raise many kinds, SyntaxError among them
                failures.append(f"{path} ({_reason(error)})")
            progress(index + 1, len(paths))
    if failures:
        count = "" if len(failures) == 1 else f"{len(failures)} files: "
        raise InputError(f"{count}{', '.join(failures)} cannot be read as an image: repair or remove it")
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, _UnfitError) else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's warnings, which do not name the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _UnfitError(Exception):
    """Why an image is not taken."""


def _read_image(path: Path, size: int) -> np.ndarray:
    if path.exists() and not path.is_file():
        raise _UnfitError("no regular file")
    try:
        with open_regular(path) as file, Image.open(file, formats=_formats()) as image:
            most = Image.MAX_IMAGE_PIXELS
            if most is not None and image.width * image.height > most:
                raise Image.DecompressionBombError
            image.draft(None, (DRAFT * size, DRAFT * size))
            return fit_square(_as_rgb(ImageOps.exif_transpose(image)), size)
    except Image.DecompressionBombError:
        raise _UnfitError(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None


def fit_square(image: Image.Image, size: int) -> np.ndarray:
    """Return an RGB image as `size` x `size` x 3 bytes: its shorter side resized by Lanczos, its middle kept."""
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))


def _as_rgb(image: Image.Image) -> Image.Image:
    """Return an image in RGB as one sees it on white paper."""
    if image.mode == "F":
        raise _UnfitError("floating-point pixels, of which nobody knows what is white")
    if image.mode.startswith("I"):  # 16 bits, of which Pillow would turn all above 255 into white
        grey = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        image = Image.fromarray(grey.astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
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
