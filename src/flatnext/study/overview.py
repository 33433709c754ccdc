"""All runs of a study in one view: a line for each that is under way, and one for the whole with the time left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

from flatnext.progress import Display, Task
from flatnext.study.assignment import Assignment
from flatnext.words import counted, duration


class Overview:
    """Shows the runs of a study that are made at the same time. Use it in a `with` block.

    The time left is by the work that was done in this session, in passes over the images, which does not see that one
    model of a study is slower than another.
    """

    def __init__(self, display: Display, assignments: Sequence[Assignment]) -> None:
        self.display, self.stack = display, ExitStack()
        self.work = {item.folder: item.config.passes for item in assignments}
        self.first: dict[str, float] = {}
        self.part: dict[str, float] = {}
        self.ended: set[str] = set()
        self.shown: dict[str, ExitStack] = {}
        self.tasks: dict[str, Task] = {}
        self.study = Task()
        self.began: float | None = None  # when the first run has begun to train

    def __enter__(self) -> Overview:
        if len(self.work) > 1:
            self.study = self.stack.enter_context(self.display.task("study"))
        return self

    def __exit__(self, *_: object) -> None:
        for shown in self.shown.values():
            shown.close()
        self.stack.close()

    def begin(self, assignment: Assignment) -> None:
        """Show a run that begins, or that begins again."""
        self.end(assignment, done=False)
        self.shown[assignment.folder] = shown = ExitStack()
        self.tasks[assignment.folder] = shown.enter_context(self.display.task(assignment.title))

    def show(self, assignment: Assignment, part: float, text: str) -> None:
        """Show how far a run is, a fraction, and a text that begins with its title."""
        folder = assignment.folder
        if self.began is None:
            self.began = time.monotonic()
        self.first.setdefault(folder, part)  # of a run that goes on, what was done before
        self.part[folder] = part
        if folder in self.tasks:
            self.tasks[folder].show(part, text)
        self._show_study()

    def end(self, assignment: Assignment, *, done: bool = True) -> None:
        """Take a run off the view; `done`: it will not begin again."""
        self.tasks.pop(assignment.folder, None)
        if shown := self.shown.pop(assignment.folder, None):
            shown.close()
        if done:
            self.ended.add(assignment.folder)
            self.first.setdefault(assignment.folder, 0.0)
            self.part[assignment.folder] = 1.0
            self._show_study()

    def _show_study(self) -> None:
        if self.study.due():
            part = self._done() / sum(self.work.values())
            runs = f"{len(self.ended)} of {counted(len(self.work), 'run')} done, {len(self.tasks)} under way"
            self.study.show(part, f"study: {runs}, {part:.0%}, {self.left()}")

    def _done(self) -> float:
        return sum(self.part.get(folder, 0.0) * work for folder, work in self.work.items())

    def left(self) -> str:
        """Return the time left as text."""
        new = sum((self.part[folder] - self.first[folder]) * self.work[folder] for folder in self.first)
        if new <= 0 or self.began is None:
            return "time left unknown"
        left = sum(self.work.values()) - self._done()
        return f"{duration((time.monotonic() - self.began) * left / new)} left"
