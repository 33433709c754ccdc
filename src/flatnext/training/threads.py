"""How many threads a run computes with: measured on its own network, as the machine is at that moment."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional as F

from flatnext.cpu import cores
from flatnext.device import autocast, dtype, threads
from flatnext.runs.reading import ENVIRONMENT
from flatnext.training.options import Threads
from flatnext.training.run_state import RunState
from flatnext.words import counted

SECONDS = 1.0
"""In which passes are timed, after one of each number of threads that is not."""

IMAGES, SIZE = 8, 32
"""A pass has so many images of so many pixels a side, or as many pixels in smaller images, but no more than a batch."""

WORTH = 0.9
"""Fewer threads are taken if they reach this share of the best rate: they leave cores to others."""


def choose_threads(run: RunState, wanted: Threads | None) -> tuple[int, str]:
    """Return the number of threads for a run, and what is to be said of it, empty where nothing is."""
    environment = run.folder.path / ENVIRONMENT
    before = run.folder.environment().threads if run.device.type == "cpu" and environment.is_file() else None
    number, note = _chosen(run, wanted, before)
    if before not in (None, number):
        changed = f"computes with {counted(number, 'thread')}, before with {before}: its bits depend on that"
        note = "; ".join(filter(None, (note, changed)))
    return number, note


def _chosen(run: RunState, wanted: Threads | None, before: int | None) -> tuple[int, str]:
    """Return the number, and a phrase that says what was measured, empty where nothing was.

    `auto`: a run that goes on keeps its number, since the bits of its results depend on it; a number in the variable
    `OMP_NUM_THREADS` is kept as well; several processes, or a GPU, have as many as torch has; else it is measured.
    """
    if isinstance(wanted, int):
        return wanted, ""
    if wanted is None or run.device.type != "cpu" or run.processes.count > 1 or "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads(), ""
    if before is not None and before <= cores():
        return before, ""
    numbers = thread_numbers(torch.get_num_threads())
    if len(numbers) == 1:
        return numbers[0], ""
    rates = measured_rates(run, numbers)
    number = fastest(rates)
    figures = ", ".join(f"{count} {rate:,.0f}" for count, rate in rates.items())
    return number, f"images a second by threads: {figures}; computes with {number} (--threads N sets it)"


def fastest(rates: Mapping[int, float]) -> int:
    """Return the fewest threads whose rate is about the best."""
    return min(number for number, rate in rates.items() if rate >= WORTH * max(rates.values()))


def thread_numbers(most: int) -> list[int]:
    """Return the numbers of threads that are worth a try: all, half of them, a quarter ... one."""
    numbers = []
    while most >= 1:
        numbers.append(most)
        most //= 2
    return numbers


def measured_rates(run: RunState, numbers: Sequence[int]) -> dict[int, float]:
    """Return the images a second of passes of a copy of the run's network, by the number of threads, in turns."""
    model = copy.deepcopy(run.model).train()
    size = min(run.partition.train.images.shape[-1], SIZE)
    batch = -(-run.config.batch_size // run.config.grad_accum_steps)
    count = max(min(batch, IMAGES * SIZE**2 // size**2), 2)
    channels = run.partition.train.images.shape[1]
    images = torch.zeros(count, channels, size, size, device=run.device, dtype=dtype(run.precision))
    labels = torch.zeros(count, dtype=torch.int64, device=run.device)

    def seconds(number: int) -> float:
        with threads(number):
            began = time.perf_counter()
            with autocast(run.precision, run.device):
                logits = model(images)
            F.cross_entropy(logits.to(images.dtype), labels).backward()
            return time.perf_counter() - began

    for number in numbers:
        seconds(number)
    times: dict[int, float] = dict.fromkeys(numbers, 0.0)
    rounds, began = 0, time.perf_counter()
    while not rounds or time.perf_counter() - began < SECONDS:
        for number in numbers:
            times[number] += seconds(number)
        rounds += 1
    return {number: rounds * count / total for number, total in times.items()}
