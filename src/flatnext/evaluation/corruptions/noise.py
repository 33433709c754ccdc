"""Noise: of a sensor in low light, of counted photons, and of dead and stuck pixels.

Here and in its siblings pixels are float32, N x H x W x C (C is 3, or 1 for grey), from 0 to 255, and a function
returns the like, unclipped.
"""

from __future__ import annotations

import numpy as np

from flatnext.evaluation.corruptions.draws import Array, Draws, normal, uniform


def gaussian_noise(pixels: Array, generators: Draws, scale: float) -> Array:
    """Add normal noise whose standard deviation is `scale` of the full range."""
    return pixels + normal(generators, pixels.shape[1:]) * np.float32(255 * scale)


def shot_noise(pixels: Array, generators: Draws, photons: float) -> Array:
    """Count photons: a Poisson number for each value, of which white has `photons` on average."""
    means = pixels * (photons / 255)
    counts = np.stack([each.poisson(mean) for each, mean in zip(generators, means, strict=True)])
    return (counts * (255 / photons)).astype(np.float32)


def impulse_noise(pixels: Array, generators: Draws, share: float) -> Array:
    """Set a share of the values, each channel by itself, to 0 or 255, either as likely."""
    drawn = uniform(generators, pixels.shape[1:])
    extreme = np.where(drawn < share / 2, np.float32(0), np.float32(255))
    return np.where(drawn < share, extreme, pixels)
