"""Images as people have them (files, Pillow's, arrays, tensors) as the pixels that a model takes. Without torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from flatnext.errors import InputError
from flatnext.pictures import Resize, convert, read_picture

FORMS = (
    "give a path, a Pillow image, a uint8 array (H x W, H x W x C or N x H x W x C), a uint8 tensor (C x H x W or "
    "N x C x H x W), or a list of them; C is 1, 3 or 4"
)

CHANNELS = (1, 3, 4)
"""Grey, RGB, and RGB with opacity."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What becomes of an image before the model: its side in pixels, how it is made square, and its channels."""

    image_size: int
    channels: int = 3
    resize: Resize = "crop"

    def read(self, path: Path | BinaryIO, max_pixels: int | None = None) -> np.ndarray:
        """Return an image file, which may be open, as uint8 pixels (C x H x W); errors as of `read_picture`."""
        size, resize, channels = self.image_size, self.resize, self.channels
        return _channels_first(read_picture(path, size=size, resize=resize, channels=channels, max_pixels=max_pixels))

    def convert(self, image: Image.Image) -> np.ndarray:
        """Return a Pillow image as uint8 pixels (C x H x W)."""
        return _channels_first(convert(image, size=self.image_size, resize=self.resize, channels=self.channels))

    def every(self, images: Any) -> Iterator[np.ndarray]:
        """Yield each of the images in any of `FORMS` as uint8 pixels (C x H x W). `InputError`: it is none of these."""
        if isinstance(images, (str, os.PathLike)):
            yield self.read(Path(images).expanduser())
        elif isinstance(images, Image.Image):
            yield self.convert(images)
        elif isinstance(images, np.ndarray):
            yield from map(self._pixels, _last(images))
        elif hasattr(images, "detach") and hasattr(images, "cpu"):  # a tensor, without importing torch to know
            yield from map(self._pixels, _tensor(images))
        elif isinstance(images, Iterable) and not isinstance(images, (bytes, dict)):
            for image in images:
                yield from self.every(image)
        else:
            raise InputError(f"images are of type {type(images).__name__}: {FORMS}")

    def _pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Return one image (H x W x C) as the model takes it."""
        if pixels.shape == (self.image_size, self.image_size, self.channels):
            return _channels_first(pixels)
        pixels = pixels.squeeze(2) if pixels.shape[2] == 1 else pixels
        return self.convert(Image.fromarray(np.ascontiguousarray(pixels)))  # L, RGB or RGBA, by its shape


def _last(images: np.ndarray) -> np.ndarray:
    """Return an array as N x H x W x C."""
    _check_bytes(images.dtype, images.shape)
    pixels = images[:, :, None] if images.ndim == 2 else images
    return _checked(pixels[None] if pixels.ndim == 3 else pixels, images.shape)


def _tensor(images: Any) -> np.ndarray:
    """Return a tensor as N x H x W x C."""
    _check_bytes(str(images.dtype).removeprefix("torch."), tuple(images.shape))
    pixels = images.detach().cpu().numpy()
    if pixels.ndim not in (3, 4):
        raise InputError(f"the tensor is {tuple(images.shape)}: give C x H x W or N x C x H x W")
    pixels = pixels if pixels.ndim == 4 else pixels[None]
    return _checked(pixels.transpose(0, 2, 3, 1), tuple(images.shape))


def _check_bytes(dtype: Any, shape: tuple[int, ...]) -> None:
    if str(dtype) != "uint8":
        remedy = "give uint8, 0 to 255" + (
            " (of values from 0 to 1: multiply by 255, round, convert)" if "float" in str(dtype) else ""
        )
        raise InputError(f"images are {dtype} {shape}: {remedy}")


def _checked(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return images (N x H x W x C) if they are that."""
    if images.ndim != 4 or images.shape[3] not in CHANNELS or images.size == 0:
        raise InputError(f"images are uint8 {shape}: {FORMS}")
    return images


def _channels_first(pixels: np.ndarray) -> np.ndarray:
    return pixels.transpose(2, 0, 1)
