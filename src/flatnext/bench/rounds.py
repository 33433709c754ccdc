"""Turns of several contenders, interleaved, so that a machine that drifts drifts for all."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

Turn = Callable[[], float]


def interleave(
    turns: Mapping[str, Turn], rounds: int, say: Callable[[str], None] = lambda text: None
) -> dict[str, list[float]]:
    """Return the seconds of each contender's turn in each round.

    Each round begins one contender further on, so that none always follows the same one from a fresh round's start.
    """
    names = list(turns)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        first = number % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(turns[name]())
    return samples


def warm_and_interleave(
    turns: Mapping[str, Turn], rounds: int, say: Callable[[str], None] = lambda text: None
) -> dict[str, list[float]]:
    """Return what `interleave` does, after one turn of each contender that does not count."""
    for turn in turns.values():
        turn()
    return interleave(turns, rounds, say)


class Spread(NamedTuple):
    """Median and middle half (25th to 75th percentile) of `n` numbers."""

    median: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float]:
        """Return the fields by name."""
        return self._asdict()


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles, interpolated between the values (NumPy's default), of at least one number."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(middle, low, high, len(values))


def in_groups(values: Sequence[float], size: int) -> list[float]:
    """Return the sums of whole groups of `size` values in a row; a rest that fills no group is left out."""
    return [sum(values[start : start + size]) for start in range(0, len(values) - size + 1, size)]


def ratios(above: Sequence[float], below: Sequence[float], group: int = 1) -> list[float]:
    """Return the ratio of two contenders' times, round by round, or summed over groups of rounds."""
    return [a / b for a, b in zip(in_groups(above, group), in_groups(below, group), strict=True)]
