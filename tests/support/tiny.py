"""A run that takes a fraction of a second: a small sibling on some of the digits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flatnext.config import Config, recipe
from flatnext.progress import Display, Task

TINY = {
    "epochs": 2,
    "batch_size": 32,
    "train_images": 100,
    "validation": 40,
    "blocks": (1, 1),
    "cardinality": 2,
    "stem": 8,
    "learning_rate": 0.02,
    "precision": "fp32",
}

TINY_FLAGS = [
    *("--epochs", "1", "--batch-size", "32", "--train-images", "100", "--validation", "40", "--blocks", "1,1"),
    *("--cardinality", "2", "--stem", "8", "--lr", "0.02", "--precision", "fp32"),
]
"""Such a run for the command line, of one epoch."""


def tiny(name: str = "quick", **changes: object) -> Config:
    """Return a recipe on the digits with everything made small: 4 steps an epoch."""
    return recipe(name).override({**TINY, **changes})


CONFIGS = [
    tiny(),
    tiny("quick-amp", ema=0.9),
    tiny("quick-amp", inner_iter=2, precision="bf16", clip_norm=1.0, cutout=4),
]
"""Runs that differ in what they keep: plain; an average of the weights; bf16, clipped, with two ascent steps."""


class AtStep(Display, Task):
    """Calls a function when the run asks, after a step, whether to show it; counts the steps of this session."""

    def __init__(self, number: int, action: object) -> None:
        self.steps, self.number, self.action = 0, number, action

    @contextmanager
    def task(self, title: str, total: float = 1.0, done: float = 0.0) -> Iterator[Task]:
        yield self

    def due(self) -> bool:
        self.steps += 1
        if self.steps == self.number:
            self.action()
        return True
