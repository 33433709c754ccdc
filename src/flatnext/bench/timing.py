"""Timing work on any device, several contenders in turns, so that a machine that drifts drifts for all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

Turn = Callable[[], float]
"""Does some work and returns its seconds."""


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all its work; a CPU has none left."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the wall-clock seconds of `work`, from an idle device to an idle device."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def interleave(
    turns: Mapping[str, Turn],
    rounds: int,
    say: Callable[[str], None] = lambda text: None,
    *,
    warm_up: bool = False,
) -> dict[str, list[float]]:
    """Return the seconds of each contender's turn in each round; `warm_up` takes one turn of each first, uncounted.

    Each round starts with another contender, so that none always follows the same one.
    """
    if warm_up:
        for turn in turns.values():
            turn()
    names = list(turns)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        first = number % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(turns[name]())
    return samples


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return `median`, `low` and `high` (25th and 75th percentile, interpolated as by NumPy), and `n` of the values."""
    if len(values) == 1:
        low, middle, high = values[0], values[0], values[0]
    else:
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high, "n": len(values)}


def group_sums(values: Sequence[float], size: int) -> list[float]:
    """Return the sums of consecutive groups of `size` values; a remainder that fills no group is left out."""
    return [sum(values[start : start + size]) for start in range(0, len(values) - size + 1, size)]


def ratios(numerator: Sequence[float], denominator: Sequence[float], group: int = 1) -> list[float]:
    """Return the ratio of two contenders' times, round by round, or summed over groups of rounds."""
    return [a / b for a, b in zip(group_sums(numerator, group), group_sums(denominator, group), strict=True)]
