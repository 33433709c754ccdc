"""Several processes that make the runs of a study at the same time."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch

from flatnext.errors import InputError
from flatnext.progress import Display, Task
from flatnext.schema import dump, parse
from flatnext.study.assignment import Assignment, Outcome
from flatnext.study.division import Division, Sample, candidates, cores, fastest

POLL_SECONDS = 0.2
"""Between two looks whether a signal has come."""

STOP_SECONDS = 60.0
"""In which a run that is asked to stop writes its checkpoint; then its process is killed."""

Message = tuple["Worker", dict[str, Any] | None]
"""What a worker has sent; None: it has ended."""

Begun = Callable[[Assignment, Sequence[Assignment], int], None]
"""Told of a run that begins, with those that wait and the number of runs at a time."""


class Worker:
    """A worker process, the run that it makes, and where that is shown."""

    def __init__(self, number: int, inbox: queue.SimpleQueue[Message]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flatnext.study.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=_environment(number),
            start_new_session=True,  # Ctrl-C is for the parent, which asks the workers to stop
        )
        self.assignment: Assignment | None = None
        self.shown, self.task = ExitStack(), Task()
        threading.Thread(target=self._read, args=(inbox,), daemon=True).start()

    def _read(self, inbox: queue.SimpleQueue[Message]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            inbox.put((self, json.loads(line)))
        inbox.put((self, None))

    def send(self, request: dict[str, Any]) -> None:
        """Send a request; a worker that has ended will be noticed by what it does not answer."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()

    def begin(self, assignment: Assignment, display: Display) -> None:
        """Have the worker make a run."""
        self.assignment = assignment
        title = f"{assignment.config.recipe} seed {assignment.config.seed}"
        self.task = self.shown.enter_context(display.task(title))
        self.send({"run": dump(assignment)})

    def end(self) -> Assignment:
        """Take the run that was made off the display, and return it."""
        assert self.assignment is not None
        self.shown.close()
        done, self.assignment = self.assignment, None
        return done

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ask the process, or by another signal tell it, to end."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def close(self) -> None:
        """End the process, which stops when its input ends."""
        self.shown.close()
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Pool:
    """Worker processes. Use it in a `with` block, at whose end they end."""

    def __init__(self, jobs: int, display: Display) -> None:
        self.display = display
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.workers = [Worker(number, self.inbox) for number in range(jobs)]

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            if worker.assignment is not None:
                worker.stop()
        for worker in self.workers:
            worker.close()

    def keep(self, jobs: int) -> None:
        """End all workers but so many."""
        for worker in self.workers[jobs:]:
            worker.close()
        del self.workers[jobs:]

    def measure(self, sample: Sample) -> list[tuple[Division, float]]:
        """Return the images a second, of all jobs together, of each way to divide this machine's cores."""
        results = []
        for division in candidates(cores(), len(self.workers)):
            request = dump(sample) | {"threads": division.threads}
            for worker in self.workers[: division.jobs]:
                worker.send({"measure": request})
            answers = [self.inbox.get()[1] for _ in range(division.jobs)]
            if any(answer is None or "rate" not in answer for answer in answers):
                raise InputError("a process that measures how fast runs are has ended: give --jobs a number")
            results.append((division, sum(answer["rate"] for answer in answers if answer)))
        return results

    def carry_out(
        self, assignments: Sequence[Assignment], stop_requested: Callable[[], bool], begun: Begun
    ) -> Iterator[tuple[Assignment, Outcome]]:
        """Make the runs, in order as workers are free, and yield each when it has ended; `begun` is told of each.

        When a stop is requested, those under way are stopped, and no more begin.
        """
        waiting, stopping = deque(assignments), False
        for worker in self.workers:
            self._begin(worker, waiting, begun)
        while any(worker.assignment for worker in self.workers):
            if stop_requested() and not stopping:
                stopping = True
                for worker in self.workers:
                    if worker.assignment:
                        worker.stop()
            try:
                worker, message = self.inbox.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            outcome = self._outcome(worker, message, stopping)
            if outcome is None:
                continue
            yield worker.end(), outcome
            if message is None:
                worker = self._replace(worker)
            if not stopping and not stop_requested():
                self._begin(worker, waiting, begun)

    def _begin(self, worker: Worker, waiting: deque[Assignment], begun: Begun) -> None:
        if waiting:
            assignment = waiting.popleft()
            begun(assignment, tuple(waiting), len(self.workers))
            worker.begin(assignment, self.display)

    def _outcome(self, worker: Worker, message: dict[str, Any] | None, stopping: bool) -> Outcome | None:
        """Return what became of the worker's run, None while it is under way; show what there is to show."""
        if message is None:
            if worker.assignment is None:
                return None
            status = worker.process.wait()
            why = f"its process was ended by signal {-status}" if status < 0 else f"its process ended with {status}"
            return Outcome(kind="stopped" if stopping else "failed", message=f"{why}; its messages are above")
        if "say" in message:
            self.display.say(message["say"])
        elif "show" in message:
            worker.task.show(*message["show"])
        elif "outcome" in message:
            return parse(Outcome, message["outcome"])
        return None

    def _replace(self, worker: Worker) -> Worker:
        """Return a new worker in the place of one that has ended."""
        number = self.workers.index(worker)
        worker.close()
        self.workers[number] = Worker(number, self.inbox)
        return self.workers[number]


def gpus(device: str) -> int:
    """Return how many GPUs the runs of a study may have, one each; 0 where they run on a CPU or one named GPU."""
    return torch.cuda.device_count() if device in ("auto", "cuda") and torch.cuda.is_available() else 0


def measured(pool: Pool, sample: Sample) -> Division:
    """Return the division of this machine that makes the most images a second, and say what was measured."""
    results = pool.measure(sample)
    texts = [f"{d.jobs} at a time with {d.threads} threads {rate:,.0f}" for d, rate in results]
    chosen = fastest(results)
    pool.display.say(f"images a second of all runs together, {', '.join(texts)}: {chosen.jobs} at a time")
    return chosen


def _environment(number: int) -> dict[str, str]:
    """Return the environment of a worker: threads that sleep while they wait, and of several GPUs its own."""
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    if torch.cuda.is_available() and torch.cuda.device_count() > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        count = torch.cuda.device_count()
        names = visible if len(visible) == count and all(visible) else [str(index) for index in range(count)]
        environment["CUDA_VISIBLE_DEVICES"] = names[number % count]
    return environment
