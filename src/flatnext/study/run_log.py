"""What is said of the runs of a study: which begins, how each ended, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from flatnext.errors import InputError
from flatnext.progress import Display
from flatnext.runs.folder import RunFolder
from flatnext.study.assignment import Assignment, Outcome
from flatnext.training import Stopped
from flatnext.words import duration


class RunLog:
    """Says which run of a study begins, how each ended and how long the rest will take, and counts failures."""

    def __init__(self, display: Display, folders: Sequence[str], *, overwrite: bool) -> None:
        self.display, self.folders, self.overwrite = display, folders, overwrite
        self.failures: list[str] = []
        self.stopped: str | None = None
        self.began: dict[str, float] = {}
        self.seconds: dict[str, list[float]] = {}
        for number, folder in enumerate(folders, start=1):
            if not overwrite and RunFolder(Path(folder)).finished():
                config = RunFolder(Path(folder)).config()
                self.display.say(
                    f"run {number} of {len(folders)}: {config.recipe}, seed {config.seed}: finished before"
                )

    def label(self, assignment: Assignment) -> str:
        """Return which run this is."""
        number = self.folders.index(assignment.folder) + 1
        return f"run {number} of {len(self.folders)}: {assignment.config.recipe}, seed {assignment.config.seed}"

    def begin(self, assignment: Assignment, left: Sequence[Assignment] = (), jobs: int = 1) -> None:
        """Say that a run begins, and how long it and those that are `left` take, once that is known."""
        recipes = [item.config.recipe for item in (assignment, *left)]
        known = all(recipe in self.seconds for recipe in recipes)
        seconds = sum(sum(self.seconds[r]) / len(self.seconds[r]) for r in recipes) / jobs if known else 0
        self.display.say(
            self.label(assignment) + (f" (the study needs about {duration(seconds)} more)" if known else "")
        )
        if not RunFolder(Path(assignment.folder)).started():  # half a run tells nothing of a whole one
            self.began[assignment.folder] = time.monotonic()

    def end(self, assignment: Assignment, outcome: Outcome) -> None:
        """Take what became of a run. `InputError`: it could not be started, which ends the study."""
        label = self.label(assignment)
        if outcome.kind == "stopped":
            self.stopped = self.stopped or label
        elif outcome.kind == "refused":
            raise InputError(outcome.message)
        elif outcome.kind == "held":
            self.display.say(f"{label}: left to {outcome.message}")
        elif outcome.kind == "failed":
            self.display.say(f"{label}: failed: {outcome.message}")
            self.failures.append(f"{assignment.folder}: {outcome.message}")
        elif assignment.folder in self.began:
            seconds = time.monotonic() - self.began[assignment.folder]
            self.seconds.setdefault(assignment.config.recipe, []).append(seconds)

    def close(self) -> list[str]:
        """Return a line for each run that failed. `Stopped`: the study was stopped before its last run."""
        if self.stopped:
            again = "the same command without --overwrite" if self.overwrite else "the same command"
            raise Stopped(f"stopped in {self.stopped}; {again} goes on from there")
        return self.failures
