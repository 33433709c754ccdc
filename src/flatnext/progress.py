"""How far a long piece of work is: a bar on a terminal, a line now and then in a log, or nothing.

Work reports to a `Progress`, a function of how much is done and how much there is. A `Display` shows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flatnext.words import duration

Progress = Callable[[float, float], object]
"""Called with how much is done and how much there is, in any unit: images, points, steps or probes."""

LINE_SECONDS = 60.0
"""Between two lines of a task in a log."""

BAR_SECONDS = 0.25
"""Between two changes of a bar."""


def silent(done: float, total: float) -> None:
    """Report nothing."""


class Weighted:
    """Progress of a whole that is made of named steps with weights."""

    def __init__(self, progress: Progress, **weights: float) -> None:
        self.progress, self.weights = progress, weights
        self.done: dict[str, float] = {}

    def __call__(self, name: str) -> Progress:
        """Return the progress of one step."""

        def report(done: float, total: float) -> None:
            self.done[name] = self.weights[name] * done / max(total, 1)
            self.progress(sum(self.done.values()), sum(self.weights.values()))

        return report


class Task:
    """A piece of work that is not shown; also the interface of those that are. It is a `Progress`."""

    def due(self) -> bool:
        """Return whether a call would show something now: what it shows may be expensive to compute."""
        return False

    def __call__(self, done: float, total: float, text: str = "") -> None:
        """Show how much is done, with a text in place of the percentage."""

    def show(self, part: float, text: str) -> None:
        """Show the fraction that is done and a text, now if it is time to show something."""

    def left(self, done: float) -> str:
        """Return the time left as text, by the pace so far."""
        return "time left unknown"


def printable(text: str) -> str:
    """Return a line as a terminal may show it: control characters, such as those that clear it, by their escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Display:
    """Shows nothing; also the interface of the displays that do. `speaks`: whether downloads may show bars too."""

    speaks = False

    def say(self, text: str) -> None:
        """Show a line of text."""

    @contextmanager
    def task(self, title: str, total: float = 1.0, done: float = 0.0) -> Iterator[Task]:
        """Show a piece of work while the block runs, of which `done` was done before."""
        yield Task()


class ConsoleDisplay(Display):
    """Writes to standard error: a bar where it is a terminal, lines elsewhere."""

    speaks = True

    def __init__(self, console: Any = None) -> None:
        from rich.console import Console  # slow to import, and not needed by what shows nothing

        self.console: Console = console or Console(stderr=True, soft_wrap=True, highlight=False)
        self.bars: Any = None
        self.open = 0

    def say(self, text: str) -> None:
        """See `Display`."""
        self.console.print(printable(text), markup=False)

    @contextmanager
    def task(self, title: str, total: float = 1.0, done: float = 0.0) -> Iterator[Task]:
        """See `Display`."""
        if not self.console.is_terminal:
            yield ShownTask(title, total, done, LINE_SECONDS, lambda _, text: self.say(text))
            return
        if not self.open:
            self._start()
        self.open += 1
        bar = self.bars.add_task(printable(title), total=1.0, completed=done / total)
        try:
            yield ShownTask(
                title,
                total,
                done,
                BAR_SECONDS,
                lambda part, text: self.bars.update(bar, completed=part, description=printable(text)),
            )
        finally:
            self.open -= 1
            if self.open:
                self.bars.remove_task(bar)
            else:
                self.bars.stop()

    def _start(self) -> None:
        """Begin to show bars: one for each task that is open at a time."""
        from rich.progress import BarColumn, Progress, TextColumn

        # The text comes first, so that a narrow terminal cuts the bar and not the time left.
        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=12))
        self.bars = Progress(*columns, console=self.console, transient=True)
        self.bars.start()


class ShownTask(Task):
    """A task that calls `show` with the fraction done and a text, at most once in `interval` seconds."""

    def __init__(
        self, title: str, total: float, done: float, interval: float, show: Callable[[float, str], object]
    ) -> None:
        self.title, self.total, self.first, self.interval, self.output = title, total, done, interval, show
        self.began = self.shown = time.monotonic()

    def due(self) -> bool:
        """See `Task`."""
        return time.monotonic() - self.shown >= self.interval

    def __call__(self, done: float, total: float, text: str = "") -> None:
        """See `Task`."""
        self.total = total
        if self.due() and done < total:
            part, left = done / total, self.left(done)  # a narrow terminal cuts the end: not the time left
            self.show(part, f"{self.title}: {left}, {text}" if text else f"{self.title}: {part:.0%}, {left}")

    def show(self, part: float, text: str) -> None:
        """See `Task`."""
        if self.due():
            self.shown = time.monotonic()
            self.output(part, text)

    def left(self, done: float) -> str:
        """See `Task`."""
        if done <= self.first:
            return super().left(done)
        pace = (time.monotonic() - self.began) / (done - self.first)
        return f"{duration(pace * (self.total - done))} left"
