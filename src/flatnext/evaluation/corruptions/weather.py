"""Weather: snow, frost, fog and bright light."""

from __future__ import annotations

import numpy as np

from flatnext.evaluation.corruptions.blur import smeared
from flatnext.evaluation.corruptions.draws import Array, Draws, integers, normal, uniform
from flatnext.evaluation.corruptions.frost import SIDE, TEXTURES, textures
from flatnext.evaluation.corruptions.plasma import plasma
from flatnext.evaluation.corruptions.resample import magnified, take

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def snow(
    pixels: Array,
    generators: Draws,
    mean: float,
    spread: float,
    size: float,
    threshold: float,
    radius: int,
    sigma: float,
    colour: float,
) -> Array:
    """Whiten the picture and add falling flakes, and the same flakes turned by 180 degrees.

    Args:
        pixels: float32, N x H x W x C.
        generators: one for each image.
        mean: of the normal noise that the flakes are made from, as a share of the full range.
        spread: its standard deviation.
        size: by how much the noise is magnified.
        threshold: noise below it is no flake.
        radius: of the flakes' smear, in pixels.
        sigma: of the flakes' smear, in pixels.
        colour: share of the picture's own colour that stays.
    """
    layer = mean + spread * normal(generators, (*pixels.shape[1:3], 1))
    layer = magnified(layer.astype(np.float32), size)
    flakes = np.floor(np.where(layer < threshold, 0, layer).clip(0, 1) * 255)
    flakes = np.rint(smeared(flakes, uniform(generators, low=-135, high=-45), radius, sigma))
    whitened = np.maximum(pixels, _grey(pixels) * 1.5 + 127.5)
    return colour * pixels + (1 - colour) * whitened + flakes + flakes[:, ::-1, ::-1]


def _grey(pixels: Array) -> Array:
    return (pixels @ LUMA)[..., None] if pixels.shape[3] == 3 else pixels


def frost(pixels: Array, generators: Draws, picture: float, ice: float) -> Array:
    """Add `ice` times a piece of a texture of frost to `picture` times the picture."""
    height, width = pixels.shape[1:3]
    which = integers(generators, 0, TEXTURES, ())
    corner = integers(generators, 0, SIDE, (2,))
    rows = (corner[:, :1] + np.arange(height)) % SIDE
    columns = (corner[:, 1:] + np.arange(width)) % SIDE
    frozen = take(textures()[which], rows[:, :, None], columns[:, None, :])
    return picture * pixels + ice * (frozen if pixels.shape[3] == 3 else _grey(frozen))


def fog(pixels: Array, generators: Draws, density: float, decay: float) -> Array:
    """Add clouds of at most `density` times the full range, then darken so that no value exceeds the old maximum."""
    height, width = pixels.shape[1:3]
    side = 1 << (max(height, width) - 1).bit_length()
    clouds = plasma(uniform(generators, (side, side), -1, 1), decay)[:, :height, :width, None]
    highest = pixels.max(axis=(1, 2, 3), keepdims=True)
    return (pixels + 255 * density * clouds) * (highest / (highest + 255 * density))


def brightness(pixels: Array, generators: Draws, more: float) -> Array:
    """Raise the value of HSV, the largest of the three channels, by `more` of the full range; hue and saturation stay.

    So the channels keep their ratios, and black becomes grey.
    """
    value = pixels.max(axis=3, keepdims=True)
    raised = np.minimum(value + np.float32(255 * more), 255)
    return np.where(value > 0, pixels * (raised / np.maximum(value, 1)), raised)
