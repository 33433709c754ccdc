"""Random numbers of a corruption, a generator an image, so that an image's do not depend on its batch."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Draws = Sequence[np.random.Generator]


def draws(seed: int, name: str, severity: int, first: int, count: int) -> list[np.random.Generator]:
    """Return the generators of images `first` to `first + count - 1`, fixed by (seed, name, severity, image)."""
    kind = zlib.crc32(name.encode())  # of the name and not its place in a table, which may change
    keys = ((kind, severity, image) for image in range(first, first + count))
    return [np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key)) for key in keys]


def normal(generators: Draws, shape: Sequence[int]) -> Array:
    """Return standard normal numbers (float32), N x `shape`."""
    return np.stack([generator.standard_normal(tuple(shape), dtype=np.float32) for generator in generators])


def uniform(generators: Draws, shape: Sequence[int] = (), low: float = 0, high: float = 1) -> Array:
    """Return uniform numbers of [low, high) (float32), N x `shape`."""
    values = np.stack([generator.random(tuple(shape), dtype=np.float32) for generator in generators])
    return values * np.float32(high - low) + np.float32(low)


def integers(generators: Draws, low: int, high: int, shape: Sequence[int]) -> Array:
    """Return whole numbers of low to high - 1 (int64), N x `shape`."""
    return np.stack([generator.integers(low, high, tuple(shape)) for generator in generators])
