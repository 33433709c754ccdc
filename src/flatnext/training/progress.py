"""Telling people how far a run is: a live line on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from flatnext.durations import duration


class Silent:
    """Says nothing; also the interface of the others. `speaks` tells whether other parts may show progress too."""

    speaks = False

    def start(self, title: str, total_steps: int, done_steps: int, work: Callable[[int], float] = float) -> None:
        """Begin a run of `total_steps`, `done_steps` of which an earlier session has done.

        `work` says how much work, in any unit, a number of steps from the start is.
        """

    def step(self, epoch: int, done_steps: int, loss: float, accuracy: float, rate: float) -> None:
        """Show the position, images a second, and the epoch's mean loss and accuracy so far."""

    def wants_step(self) -> bool:
        """Return whether `step` would show something now: reading the loss makes a GPU wait."""
        return False

    def epoch(self, line: dict[str, Any]) -> None:
        """Show an epoch's line of metrics."""

    def say(self, text: str) -> None:
        """Show a sentence."""

    def close(self) -> None:
        """End the run's display."""


class Lines(Silent):
    """One line an epoch, and one a minute within an epoch that takes longer."""

    speaks = True
    interval = 60.0

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stderr, soft_wrap=True, highlight=False)
        self.title = ""
        self.total = self.first = 0
        self.began = self.shown = 0.0

    def start(self, title: str, total_steps: int, done_steps: int, work: Callable[[int], float] = float) -> None:
        """See `Silent`."""
        self.title, self.total, self.first, self.work = title, total_steps, done_steps, work
        self.began = self.shown = time.monotonic()
        if done_steps:
            self.say(f"{title}: goes on after step {done_steps:,} of {total_steps:,}")

    def wants_step(self) -> bool:
        """See `Silent`."""
        return time.monotonic() - self.shown >= self.interval

    def step(self, epoch: int, done_steps: int, loss: float, accuracy: float, rate: float) -> None:
        """See `Silent`."""
        self.shown = time.monotonic()
        self._show(
            done_steps,
            f"epoch {epoch}, {rate:,.0f} images/s, loss {loss:.3f}, accuracy {accuracy:.1%}, {self._left(done_steps)}",
        )

    def epoch(self, line: dict[str, Any]) -> None:
        """See `Silent`."""
        self.shown = time.monotonic()
        parts = [f"{self.title}: epoch {line['epoch']}", f"{line['images_per_second']:,.0f} images/s"]
        accuracies = {split: line[f"{split}_accuracy"] for split in ("train", "validation", "test")}
        parts += [f"{split} {value:.2%}" for split, value in accuracies.items() if value is not None]
        self.say(", ".join([*parts, f"loss {line['train_loss']:.3f}", self._left(line["step"])]))

    def say(self, text: str) -> None:
        """See `Silent`."""
        self.console.print(text, markup=False)

    def _show(self, done_steps: int, text: str) -> None:
        self.say(f"{self.title}: step {done_steps:,} of {self.total:,}, {text}")

    def _left(self, done_steps: int) -> str:
        """Return the time left, by this session's pace with its evaluations."""
        done = self.work(done_steps) - self.work(self.first)
        if done <= 0:
            return "time left unknown"
        to_do = self.work(self.total) - self.work(done_steps)
        return f"{duration((time.monotonic() - self.began) * to_do / done)} left"


class Bar(Lines):
    """A line that moves, for a terminal; the epochs' lines scroll by above it."""

    interval = 0.25

    def start(self, title: str, total_steps: int, done_steps: int, work: Callable[[int], float] = float) -> None:
        """See `Silent`."""
        self.close()
        # What counts comes first, so that a narrow terminal cuts the bar and not the time left.
        self.bar = Progress(TextColumn("{task.description}"), BarColumn(bar_width=12), console=self.console)
        self.bar.start()
        self.task = self.bar.add_task(title, total=total_steps, completed=done_steps)
        super().start(title, total_steps, done_steps, work)

    def epoch(self, line: dict[str, Any]) -> None:
        """See `Silent`."""
        super().epoch(line)
        self.bar.update(self.task, completed=line["step"])

    def close(self) -> None:
        """See `Silent`."""
        if hasattr(self, "bar"):
            self.bar.stop()

    def _show(self, done_steps: int, text: str) -> None:
        self.bar.update(self.task, completed=done_steps, description=text)


def make_progress() -> Lines:
    """Return the display that fits where standard error goes."""
    console = Console(stderr=True, highlight=False)
    return Bar(console) if console.is_terminal else Lines()
