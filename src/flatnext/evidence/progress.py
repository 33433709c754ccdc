"""How far the gathering is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from flatnext.durations import duration

Progress = Callable[[float, float], None]
"""Called with how much is done, and how much there is."""

INTERVAL = 20.0  # seconds between lines


class Weighted:
    """Progress of a whole that is made of steps, of which each has its weight."""

    def __init__(self, progress: Progress, **weights: float) -> None:
        self.progress, self.weights = progress, weights
        self.done: dict[str, float] = {}

    def __call__(self, name: str) -> Progress:
        """Return the progress of one step."""

        def told(done: float, total: float) -> None:
            self.done[name] = self.weights[name] * done / max(total, 1)
            self.progress(sum(self.done.values()), sum(self.weights.values()))

        return told


def silent(done: float, total: float) -> None:
    """Tell nobody."""


class Display:
    """Shows where the gathering is; `say` writes a line above it."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, soft_wrap=True, highlight=False)

    def say(self, text: str) -> None:
        """Write a line."""
        self.console.print(text, markup=False)

    @contextmanager
    def part(self, title: str) -> Iterator[Progress]:
        """Show the progress of one part, and its time at the end."""
        began = time.monotonic()
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), TimeRemainingColumn())
            with Bar(*columns, console=self.console, transient=True) as bar:
                task = bar.add_task(title, total=1.0)
                yield lambda done, total: bar.update(task, completed=done, total=total)
        else:
            yield self._lines(title, began)
        self.say(f"{title}: {duration(time.monotonic() - began)}")

    def _lines(self, title: str, began: float) -> Progress:
        shown = began

        def told(done: float, total: float) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown >= INTERVAL and 0 < done < total:
                shown = now
                left = duration((now - began) * (total - done) / done)
                self.say(f"{title}: {done / total:.0%}, about {left} left")

        return told


class Quiet(Display):
    """Shows nothing."""

    def __init__(self) -> None:
        pass

    def say(self, text: str) -> None:
        """Write nothing."""

    @contextmanager
    def part(self, title: str) -> Iterator[Progress]:
        """Show nothing."""
        yield silent
