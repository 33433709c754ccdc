"""Blur: out of focus, through frosted glass, of a moving camera, and of one that moves towards the scene."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from flatnext.evaluation.corruptions.draws import Array, Draws, integers, uniform
from flatnext.evaluation.corruptions.resample import magnified, moved, take

ROUNDING = 1e-3  # of a level: what a sum in float32 may be short of a whole number


def defocus_blur(pixels: Array, generators: Draws, radius: float, smoothing: float) -> Array:
    """Convolve with a disc of `radius` pixels, whose edge is smoothed by a 3 x 3 Gaussian of `smoothing` pixels."""
    kernel = disc(radius, smoothing)
    reach = len(kernel) // 2
    height, width = pixels.shape[1:3]
    padded = np.pad(pixels, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="reflect")
    total = np.zeros_like(pixels)
    for (row, column), weight in np.ndenumerate(kernel):
        if weight > 1e-9:
            total += np.float32(weight) * padded[:, row : row + height, column : column + width]
    return total


def disc(radius: float, smoothing: float) -> Array:
    """Return the kernel (float64, K x K, sum 1) of `defocus_blur`."""
    reach = int(np.ceil(radius)) + 1
    squares = np.arange(-reach, reach + 1.0) ** 2
    sharp = (squares[:, None] + squares <= radius**2).astype(np.float64)
    outer = np.exp(-1 / (2 * smoothing**2))
    soft = np.array([outer, 1, outer]) / (1 + 2 * outer)
    return ndimage.convolve(sharp / sharp.sum(), np.outer(soft, soft), mode="constant")


def glass_blur(pixels: Array, generators: Draws, sigma: float, rounds: int) -> Array:
    """Blur by a Gaussian of `sigma` pixels, give each pixel a neighbour's value, `rounds` times, and blur again.

    The neighbour lies 0 or 1 pixel up and 0 or 1 to the left. The code of CIFAR-10-C means to swap the two pixels but
    copies one (both sides of its assignment are views of one array), and so does this. Two rows and columns at the top
    and the left stay.
    """
    height, width = pixels.shape[1:3]
    pixels = np.floor(_gaussian(pixels, sigma) + ROUNDING)
    for _ in range(rounds):
        steps = integers(generators, -1, 1, (2, height, width))
        steps[:, :, :2], steps[:, :, :, :2] = 0, 0
        rows = np.arange(height)[:, None] + steps[:, 0]
        pixels = take(pixels, rows, np.arange(width) + steps[:, 1])
    return _gaussian(pixels, sigma)


def motion_blur(pixels: Array, generators: Draws, radius: int, sigma: float) -> Array:
    """Smear each picture along a line of its own, at most 45 degrees from the horizontal; whole levels, rounded."""
    return np.rint(smeared(pixels, uniform(generators, low=-45, high=45), radius, sigma))


def smeared(pixels: Array, angles: Array, radius: int, sigma: float) -> Array:
    """Return the means along one side of a line from each pixel, with the weights of half a Gaussian.

    As ImageMagick's `MotionBlurImage`: 2 radius + 1 places, each the nearest pixel to its point of the line; pixels
    beyond the edge repeat the outermost one.

    Args:
        pixels: float32, N x H x W x C.
        angles: degrees (N), from the horizontal to the right, clockwise as the picture is seen.
        radius: pixels.
        sigma: of the Gaussian, in pixels.
    """
    distances = np.arange(2 * radius + 1)
    weights = np.exp(-(distances**2) / (2 * sigma**2))
    directions = np.deg2rad(angles.astype(np.float64))
    total = np.zeros_like(pixels)
    for distance, weight in zip(distances, weights / weights.sum(), strict=True):
        down = np.ceil(distance * np.sin(directions) - 0.5).astype(np.int64)
        right = np.ceil(distance * np.cos(directions) - 0.5).astype(np.int64)
        if weight > 1e-6:
            total += np.float32(weight) * moved(pixels, down, right)
    return total


def zoom_blur(pixels: Array, generators: Draws, steps: int) -> Array:
    """Return the mean of the picture and of itself magnified 1, 1.01, 1.02 ... times, `steps` of them."""
    total = pixels.copy()
    for step in range(steps):
        total += magnified(pixels, 1 + 0.01 * step)
    return total / np.float32(steps + 1)


def _gaussian(pixels: Array, sigma: float) -> Array:
    return ndimage.gaussian_filter(pixels, (0, sigma, sigma, 0), mode="nearest", truncate=4)
