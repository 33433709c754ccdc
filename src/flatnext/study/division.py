"""How a machine is divided: how many runs at a time, and with how many threads each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from flatnext.config import Config
from flatnext.device import keep_memory, resolve_device
from flatnext.errors import InputError
from flatnext.runs.folder import RunFolder
from flatnext.training import RunState, load_data, make_step
from flatnext.training.memory import at_a_time

SECONDS = 2.0
"""In which steps are counted, after `WARM` that are not."""

WARM = 2


@dataclass(frozen=True, kw_only=True)
class Division:
    """So many runs at a time, each with so many threads (None: as many as torch takes)."""

    jobs: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value in vars(self).items():
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: give at least 1")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What `rate` measures: the first steps of a run, with so many threads."""

    config: Config
    data_dir: str
    device: str
    threads: int


def candidates(cores: int, runs: int) -> list[Division]:
    """Return the divisions of the cores that are worth a try for so many runs: all for one, halves, ... one each."""
    divisions = []
    jobs = 1
    while jobs <= min(cores, runs):
        divisions.append(Division(jobs=jobs, threads=cores // jobs))
        jobs *= 2
    return divisions


def fastest(rates: Sequence[tuple[Division, float]]) -> Division:
    """Return the division with the most images a second."""
    return max(rates, key=lambda item: item[1])[0]


def fitting(sample: Sample) -> int | None:
    """Return for how many runs at a time the memory is enough, at least one; None where that is not known."""
    return at_a_time(_run(sample))


def _run(sample: Sample) -> RunState:
    config = replace(sample.config, cuda_graph=False)
    partition = load_data(config, Path(sample.data_dir), download=False)
    return RunState(config, RunFolder(Path(config.recipe)), partition, resolve_device(sample.device))


def rate(sample: Sample) -> float:
    """Return the images a second of a run's first steps, with the threads of the sample. No file is written."""
    torch.set_num_threads(sample.threads)
    keep_memory()
    run = _run(sample)
    step = make_step(run)
    run.train_mode()
    images, began, steps = 0, 0.0, 0
    while True:
        for batch in run.loader.epoch(run.epoch):
            if steps == WARM:
                images, began = 0, time.monotonic()
            run.advance(step, *batch)
            steps, images = steps + 1, images + len(batch[0])
            if steps > WARM and time.monotonic() - began > SECONDS:
                return images / (time.monotonic() - began)
        run.epoch, run.step_in_epoch = run.epoch + 1, 0
