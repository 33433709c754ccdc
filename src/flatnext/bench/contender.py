"""This project as a contender: the run, loader and step of `flatnext train`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from flatnext.bench.timing import seconds
from flatnext.config import Config
from flatnext.data import CIFAR10, Partition, Split
from flatnext.device import keep_memory
from flatnext.runs.folder import RunFolder
from flatnext.training import RunState, make_step


def random_partition(count: int, size: int, classes: int = 10) -> Partition:
    """Return `count` random training images of `size` pixels a side; nothing is held out."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    return Partition(
        name="random",
        classes=tuple(map(str, range(classes))),
        train=Split(images, labels),
        validation=None,
        test=Split(images[:1], labels[:1]),
        normalization=CIFAR10,
    )


class Contender:
    """A run of this project whose steps are taken a turn at a time. It writes no files."""

    def __init__(self, config: Config, partition: Partition, device: torch.device) -> None:
        keep_memory()  # as training does
        self.run = RunState(config, RunFolder(Path(config.recipe)), partition, device)
        self.step = make_step(self.run)
        self.batches = self._endless()

    def train(self, steps: int) -> float:
        """Take this many steps; return their seconds, with the making of the batches."""
        self.run.model.train()
        return seconds(lambda: self._take(steps), self.run.device)

    def _take(self, steps: int) -> None:
        for _ in range(steps):
            self.run.advance(self.step, *next(self.batches))

    def _endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self.run.loader.epoch(self.run.epoch)
            self.run.epoch, self.run.step_in_epoch = self.run.epoch + 1, 0
