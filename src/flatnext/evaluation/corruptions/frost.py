"""Textures of frost on a window, drawn: they stand for the photographs that CIFAR-10-C has, and look different."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from flatnext.evaluation.corruptions.draws import Array
from flatnext.evaluation.corruptions.plasma import plasma

TEXTURES = 5  # CIFAR-10-C draws from five photographs
SIDE = 256  # pixels; the textures go on at their edges
SHARPER = 4  # crystals are drawn this much larger
CRYSTALS = 130
TINT = np.array([0.70, 0.85, 1.0], np.float32)  # of red, green and blue in ice


@lru_cache(maxsize=1)
def textures() -> Array:
    """Return the textures, always the same: float32, 5 x 256 x 256 x 3, from 0 to 255."""
    return np.stack([_texture(np.random.default_rng([1903, 12261, number])) for number in range(TEXTURES)])


def _texture(generator: np.random.Generator) -> Array:
    """Return a veil of ice with crystals in it, thicker where the clouds are."""
    noise = generator.uniform(-1, 1, (2, SIDE, SIDE)).astype(np.float32)
    clouds, grain = plasma(noise[:1], 1.35)[0], plasma(noise[1:], 1.05)[0]
    crystals = ndimage.gaussian_filter(_crystals(generator), 0.6, mode="wrap")
    ice = 0.15 + 0.35 * clouds + 0.2 * grain + 0.8 * crystals * (0.4 + clouds)
    return (np.clip(ice, 0, 1)[..., None] ** (1 / TINT) * 255).astype(np.float32)


def _crystals(generator: np.random.Generator) -> Array:
    """Return ferns of ice, from 0 to 1: a stem, and branches at about 60 degrees, shorter towards its tip."""
    picture = Image.new("L", (3 * SIDE * SHARPER, 3 * SIDE * SHARPER))  # the texture in the middle, room around it
    pen = ImageDraw.Draw(picture)
    for _ in range(CRYSTALS):
        start = generator.uniform(SIDE, 2 * SIDE, 2)
        angle, length = generator.uniform(0, 2 * np.pi), generator.uniform(15, 70)
        brightness = generator.uniform(90, 255)
        _line(pen, start, angle, length, brightness)
        for along in np.sort(generator.uniform(0.05, 1, int(length))):
            side = generator.choice((-1, 1)) * generator.normal(np.pi / 3, 0.12)
            reach = (1 - along) * length * generator.uniform(0.1, 0.5)
            from_stem = start + along * length * _direction(angle)
            _line(pen, from_stem, angle + side, reach, brightness * generator.uniform(0.5, 1))
    drawn = np.asarray(picture.resize((3 * SIDE, 3 * SIDE), Image.Resampling.BOX), np.float32) / 255
    return drawn.reshape(3, SIDE, 3, SIDE).max(axis=(0, 2))  # what goes over an edge comes back at the other


def _direction(angle: float) -> Array:
    return np.array([np.cos(angle), np.sin(angle)])


def _line(pen: ImageDraw.ImageDraw, start: Array, angle: float, length: float, brightness: float) -> None:
    ends = np.concatenate([start, start + length * _direction(angle)]) * SHARPER
    pen.line([float(place) for place in ends], fill=int(brightness), width=SHARPER)
