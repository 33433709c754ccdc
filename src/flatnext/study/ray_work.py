"""The runs that a cluster of Ray has: given out, watched, begun again when they are lost, and stopped."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from flatnext.progress import Display
from flatnext.schema import parse
from flatnext.study.assignment import Assignment, Begun, Outcome, Outcomes
from flatnext.study.overview import Overview

POLL_SECONDS = 0.5
"""Between two looks at the cluster."""

STOP_SECONDS = 60.0
"""In which runs that are asked to stop write their checkpoints."""


class Tasks(Protocol):
    """What gives runs to a cluster: `ray` is Ray's module; at most `most` runs are given at a time."""

    ray: Any
    display: Display
    most: int | None

    def submit(self, assignment: Assignment, *, again: bool) -> Any:
        """Give a run to the cluster, and return Ray's reference to what will become of it."""
        ...

    def reports(self) -> list[tuple[str, dict[str, Any]]]:
        """Return what the runs have reported since the last call."""
        ...


class RayWork:
    """The runs of one call of `carry_out`: those that wait, and the tasks of those that do not."""

    def __init__(
        self, cluster: Tasks, assignments: Sequence[Assignment], begun: Begun, view: Overview, *, retries: int
    ) -> None:
        self.cluster, self.begun, self.view, self.retries = cluster, begun, view, retries
        self.say, self.ray = cluster.display.say, cluster.ray
        self.waiting = deque(assignments)
        self.runs = {item.folder: item for item in assignments}
        self.tasks: dict[Any, Assignment] = {}
        self.lost = dict.fromkeys(self.runs, 0)
        self.seen: set[str] = set()

    def ended(self) -> bool:
        """Return whether no run is left."""
        return not self.waiting and not self.tasks

    def look(self) -> Outcomes:
        """Give the cluster what it may have, show what it reports, and yield the runs that have ended."""
        most = self.cluster.most
        while self.waiting and (most is None or len(self.tasks) < most):
            assignment = self.waiting.popleft()
            again = self.lost[assignment.folder] > 0
            self.tasks[self.cluster.submit(assignment, again=again)] = assignment
        done, _ = self.ray.wait(list(self.tasks), num_returns=len(self.tasks), timeout=POLL_SECONDS)
        self._show()
        for task in done:
            assignment = self.tasks.pop(task)
            outcome, reason = self._outcome(task)
            if reason and self.lost[assignment.folder] < self.retries:
                self._begin_again(assignment, reason)
                continue
            self.view.end(assignment)
            yield assignment, outcome

    def stop(self) -> Outcomes:
        """Ask the runs under way to stop with a checkpoint, and yield those that had not ended."""
        for task in self.tasks:
            self.ray.cancel(task)
        until = time.monotonic() + STOP_SECONDS
        while self.tasks and time.monotonic() < until:
            done, _ = self.ray.wait(list(self.tasks), timeout=POLL_SECONDS)
            self._show()
            for task in done:
                yield self.tasks.pop(task), self._outcome(task, stopping=True)[0]
        for assignment in (*self.tasks.values(), *self.waiting):
            yield assignment, Outcome(kind="stopped", message="stopped")

    def _begin_again(self, assignment: Assignment, reason: str) -> None:
        folder = assignment.folder
        self.lost[folder] += 1
        self.seen.discard(folder)
        self.view.end(assignment, done=False)
        times = f"{self.lost[folder]} of {self.retries} times"
        self.say(f"{assignment.title}: {reason}: again from its last checkpoint ({times})")
        self.waiting.appendleft(assignment)

    def _outcome(self, task: Any, *, stopping: bool = False) -> tuple[Outcome, str]:
        """Return what became of a run, and if it was lost, so that another try may do, why."""
        try:
            outcome = parse(Outcome, self.ray.get(task))
        except self.ray.exceptions.RayError as error:
            if stopping:
                return Outcome(kind="stopped", message="stopped before its first step"), ""
            reason = _words(error)
            return Outcome(kind="failed", message=reason), reason
        if outcome.kind == "stopped" and not stopping:
            reason = "its node asked it to stop"
            return Outcome(kind="failed", message=reason), reason
        return outcome, ""

    def _show(self) -> None:
        """Show what the runs have reported. A report that came when its collector was lost is missing."""
        for folder, report in self.cluster.reports():
            assignment = self.runs[folder]
            if folder not in self.seen:
                self.begun(assignment, tuple(self.waiting), max(len(self.tasks), 1))
                self.seen.add(folder)
                self.view.begin(assignment)
            if "show" in report:
                self.view.show(assignment, *report["show"])
            else:
                self.say(report["say"])


def _words(error: Exception) -> str:
    """Return in a line what Ray says of a task that is lost; of an exception in it, that."""
    cause = getattr(error, "cause", None)
    text = f"{type(cause).__name__}: {cause}" if cause else f"{error}".strip().partition("\n")[0]
    return " ".join(text.split())[:300].rstrip(".") or type(error).__name__
