"""Digital: contrast, elastic distortion, coarse pixels and JPEG."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from scipy import ndimage

from flatnext.evaluation.corruptions.draws import Array, Draws, uniform
from flatnext.evaluation.corruptions.resample import bilinear


def contrast(pixels: Array, generators: Draws, share: float) -> Array:
    """Draw each channel towards its mean over the picture; `share` of the distance stays."""
    mean = pixels.mean(axis=(1, 2), keepdims=True, dtype=np.float64).astype(np.float32)
    return mean + share * (pixels - mean)


def elastic_transform(pixels: Array, generators: Draws, strength: float, sigma: float, shift: float) -> Array:
    """Distort by a random affine map, then by a random smooth field of displacements.

    Lengths are shares of the shorter side. The affine map moves three points, a third of the side from the centre, by
    up to `shift` along each axis. The field is `strength` times uniform noise of [-1, 1), smoothed by `sigma`.
    """
    height, width = pixels.shape[1:3]
    side = min(height, width)
    ys, xs = _affine(height, width, uniform(generators, (3, 2), -shift * side, shift * side))
    pixels = bilinear(pixels, ys, xs, "mirror")
    field = uniform(generators, (2, height, width), -1, 1)
    smooth = (0, 0, sigma * side, sigma * side)
    field = ndimage.gaussian_filter(field, smooth, mode="reflect", truncate=3) * (strength * side)
    rows, columns = np.indices((height, width))
    return bilinear(pixels, rows + field[:, 0], columns + field[:, 1], "reflect")


def _affine(height: int, width: int, shifts: Array) -> tuple[Array, Array]:
    """Return where each pixel's value comes from, y and x (float64, N x H x W); `shifts` (N x 3 x 2) are x and y."""
    centre, reach = np.array([width // 2, height // 2]), min(height, width) // 3
    before = centre + reach * np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    after = before + shifts
    system = np.concatenate([after, np.ones((len(after), 3, 1))], axis=2)
    back = np.linalg.solve(system, np.broadcast_to(before, after.shape))  # N x 3 x 2: from a place to its source
    rows, columns = np.indices((height, width))
    sources = np.stack([columns, rows, np.ones_like(rows)], axis=-1).reshape(-1, 3) @ back
    return sources[..., 1].reshape(-1, height, width), sources[..., 0].reshape(-1, height, width)


def pixelate(pixels: Array, generators: Draws, share: float) -> Array:
    """Shrink each side to `share` of its pixels, and enlarge it again, both by Pillow's box filter."""
    height, width = pixels.shape[1:3]
    small = int(width * share), int(height * share)
    pictures = [each.resize(small, Image.Resampling.BOX) for each in _pictures(pixels)]
    large = [np.asarray(each.resize((width, height), Image.Resampling.BOX), np.float32) for each in pictures]
    return np.stack(large).reshape(pixels.shape)


def jpeg_compression(pixels: Array, generators: Draws, quality: int) -> Array:
    """Compress and read back by Pillow, whose chroma is stored at half the resolution."""
    return np.stack([_through_jpeg(each, quality) for each in _pictures(pixels)]).reshape(pixels.shape)


def _pictures(pixels: Array) -> list[Image.Image]:
    """Return each picture as Pillow has it: RGB, or L for one channel."""
    whole = pixels.astype(np.uint8)
    return [Image.fromarray(each) for each in (whole if pixels.shape[3] == 3 else whole[..., 0])]


def _through_jpeg(picture: Image.Image, quality: int) -> Array:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer), np.float32)
