"""Seeds of random streams."""

from __future__ import annotations

import numpy as np

FLIP_STREAM, AUGMENT_STREAM, MIX_STREAM, SAMPLE_STREAM, NOISE_STREAM = range(1, 6)
"""The numbers of the streams beside the one of an epoch's order and crops, which has none."""


def mix(seed: int, number: int, *stream: int) -> int:
    """Return a 64-bit seed made from a seed, a number (an epoch, a step) and the number of a stream, by a hash.

    Sums and shifts do not do: `seed + epoch` repeats itself, and torch's CPU generator keeps the low 32 bits of a seed
    alone, so that `(seed << 32) + step` is the same stream for every seed.
    """
    # As spawn key the number starts on a word of its own; NumPy would otherwise join a long seed and the number.
    return int(np.random.SeedSequence(seed, spawn_key=(number, *stream)).generate_state(1, np.uint64)[0])
