"""Moving, sampling and magnifying a batch of pictures (float32, N x H x W x C)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from flatnext.evaluation.corruptions.draws import Array


def mirrored(index: Array, size: int) -> Array:
    """Return indices folded into 0 to size - 1 about the centres of the outer pixels: c b | a b c | b a."""
    around = np.abs(index) % (2 * size - 2)
    return np.minimum(around, 2 * size - 2 - around)


def reflected(index: Array, size: int) -> Array:
    """Return indices folded into 0 to size - 1 about the outer edges: b a | a b c | c b."""
    around = index % (2 * size)
    return np.minimum(around, 2 * size - 1 - around)


def take(pixels: Array, rows: Array, columns: Array) -> Array:
    """Return of each picture the pixels at `rows` and `columns` (int, of shapes that broadcast to N x H x W)."""
    return pixels[np.arange(len(pixels))[:, None, None], rows, columns]


def moved(pixels: Array, down: Array, right: Array) -> Array:
    """Return in each place the pixel that lies `down` and `right` of it (int, N each); the outermost pixels repeat."""
    height, width = pixels.shape[1:3]
    rows = np.clip(np.arange(height) + down[:, None], 0, height - 1)
    columns = np.clip(np.arange(width) + right[:, None], 0, width - 1)
    return take(pixels, rows[:, :, None], columns[:, None, :])


def bilinear(pixels: Array, ys: Array, xs: Array, border: str) -> Array:
    """Return the pictures sampled at ys and xs (float, N x H x W, in pixels); `border` is `mirror` or `reflect`."""
    fold = {"mirror": mirrored, "reflect": reflected}[border]
    height, width = pixels.shape[1:3]
    top, left = np.floor(ys).astype(np.int64), np.floor(xs).astype(np.int64)
    y, x = ((ys - top)[..., None]).astype(np.float32), ((xs - left)[..., None]).astype(np.float32)
    rows, columns = (fold(top, height), fold(top + 1, height)), (fold(left, width), fold(left + 1, width))
    upper = take(pixels, rows[0], columns[0]) * (1 - x) + take(pixels, rows[0], columns[1]) * x
    lower = take(pixels, rows[1], columns[0]) * (1 - x) + take(pixels, rows[1], columns[1]) * x
    return upper * (1 - y) + lower * y


def magnified(pixels: Array, factor: float) -> Array:
    """Return the middle of each picture, `factor` (at least 1) times as large, linearly interpolated.

    The part cut out is a whole number of pixels; its outer pixels' centres stay on the outer pixels' centres.
    """
    # A product a picture, and not one of all: a sum's last bit may depend on the size of the matrices.
    rows = _magnifier(pixels.shape[1], factor) @ pixels.reshape(*pixels.shape[:2], -1)
    return _magnifier(pixels.shape[2], factor) @ rows.reshape(pixels.shape)


@lru_cache(maxsize=256)
def _magnifier(size: int, factor: float) -> Array:
    """Return the matrix (float32, size x size) that magnifies the middle of `size` numbers."""
    cut = int(np.ceil(size / factor))
    made = round(cut * factor)
    start = (made - size) // 2
    places = np.arange(start, start + size) * ((cut - 1) / max(made - 1, 1))
    left = np.minimum(places.astype(np.int64), cut - 2)
    matrix = np.zeros((size, size), np.float32)
    first = (size - cut) // 2
    matrix[np.arange(size), first + left] = 1 - (places - left)
    matrix[np.arange(size), first + left + 1] = places - left
    return matrix
