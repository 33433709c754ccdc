"""Plasma: clouds by the diamond-square algorithm (Fournier, Fussell and Carpenter 1982) on a torus."""

from __future__ import annotations

import numpy as np

from flatnext.evaluation.corruptions.draws import Array


def plasma(noise: Array, decay: float) -> Array:
    """Return height maps from 0 to 1 (float32, N x S x S, S a power of two) made from uniform noise of [-1, 1).

    The grid is halved until it is one pixel wide; a new point is the mean of its four neighbours plus its noise, whose
    amplitude falls by `decay` squared with each halving. The larger `decay`, the smoother the clouds.
    """
    size = noise.shape[1]
    heights = np.zeros_like(noise)
    amplitude, step = 1.0, size
    while step > 1:
        half = step // 2
        corners = heights[:, ::step, ::step]
        centres = _mean(corners, _next(corners, 1), _next(corners, 2), _next(_next(corners, 1), 2))
        centres += amplitude * noise[:, half::step, half::step]
        heights[:, half::step, half::step] = centres
        top = _mean(centres, _previous(centres, 1), corners, _next(corners, 2))
        heights[:, ::step, half::step] = top + amplitude * noise[:, ::step, half::step]
        side = _mean(centres, _previous(centres, 2), corners, _next(corners, 1))
        heights[:, half::step, ::step] = side + amplitude * noise[:, half::step, ::step]
        amplitude, step = amplitude / decay**2, half
    heights -= heights.min(axis=(1, 2), keepdims=True)
    return heights / heights.max(axis=(1, 2), keepdims=True)


def _mean(*four: Array) -> Array:
    return sum(four[1:], four[0]) * np.float32(0.25)


def _next(grid: Array, axis: int) -> Array:
    return np.roll(grid, -1, axis)


def _previous(grid: Array, axis: int) -> Array:
    return np.roll(grid, 1, axis)
