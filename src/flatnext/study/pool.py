"""Several processes that make the runs of a study at the same time."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal

import torch

from flatnext.cpu import cores
from flatnext.errors import InputError
from flatnext.progress import Display
from flatnext.schema import dump, parse
from flatnext.study.assignment import Assignment, Begun, Outcome, Outcomes
from flatnext.study.child import Child, Message
from flatnext.study.division import Division, Sample, candidates, fastest, fitting
from flatnext.study.overview import Overview
from flatnext.training.stop import stop_on_signal
from flatnext.words import counted

POLL_SECONDS = 0.2
"""Between two looks whether a signal has come."""

Jobs = int | Literal["auto"]


class Pool:
    """Worker processes; a runner of a study. Use it in a `with` block, at whose end they end."""

    def __init__(self, jobs: int, display: Display) -> None:
        self.display = display
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.workers = [Child(number, self.inbox) for number in range(jobs)]

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
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

    def carry_out(self, assignments: Sequence[Assignment], begun: Begun) -> Outcomes:
        """See `Runner`. The runs begin in order, as workers are free."""
        waiting = deque(assignments)
        with stop_on_signal() as stop_requested, Overview(self.display, assignments) as view:
            stopping = False

            def begin(worker: Child) -> None:
                if waiting and not stop_requested():
                    assignment = waiting.popleft()
                    begun(assignment, tuple(waiting), len(self.workers))
                    view.begin(assignment)
                    worker.begin(assignment)

            for worker in self.workers:
                begin(worker)
            while any(worker.assignment for worker in self.workers):
                if stop_requested() and not stopping:
                    stopping = True
                    self._stop()
                try:
                    worker, message = self.inbox.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    continue
                if worker.assignment and message and "show" in message:
                    view.show(worker.assignment, *message["show"])
                outcome = self._outcome(worker, message, stopping)
                if outcome is None:
                    continue
                assignment = worker.end()
                view.end(assignment)
                yield assignment, outcome
                begin(self._replace(worker) if message is None else worker)
            if waiting:
                yield waiting[0], Outcome(kind="stopped", message="stopped before it began")

    def _stop(self) -> None:
        """Ask the workers that make runs to stop."""
        for worker in self.workers:
            if worker.assignment is not None:
                worker.stop()

    def _outcome(self, worker: Child, message: dict[str, Any] | None, stopping: bool) -> Outcome | None:
        """Return what became of the worker's run, None while it is under way."""
        if message is None:
            if worker.assignment is None:
                return None
            status = worker.process.wait()
            why = f"its process was ended by signal {-status}" if status < 0 else f"its process ended with {status}"
            return Outcome(kind="stopped" if stopping else "failed", message=f"{why}; its messages are above")
        if "say" in message:
            self.display.say(message["say"])
        return parse(Outcome, message["outcome"]) if "outcome" in message else None

    def _replace(self, worker: Child) -> Child:
        """Return a new worker in the place of one that has ended."""
        number = self.workers.index(worker)
        worker.close()
        self.workers[number] = Child(number, self.inbox)
        return self.workers[number]


def open_pool(
    jobs: Jobs, threads: int | None, kept: Division | None, samples: Sequence[Sample], display: Display, runs: int
) -> tuple[Pool, Division]:
    """Return a pool for so many runs, and how the machine is divided among its workers.

    With `auto` that is as it is `kept` with the study, as far as this machine has the cores for it, or else measured,
    by the one of the `samples` that takes the most memory.
    """
    devices = gpus(samples[0].device)
    rooms = [fitting(sample) or runs for sample in samples]
    room = min(rooms)
    if jobs != "auto" and jobs > room:
        raise InputError(f"the memory that is free is enough for {room} at a time: give --jobs {room}, or auto")
    if jobs == "auto" and not devices and not threads and not kept:
        pool = Pool(min(cores(), runs, room), display)
        try:
            division = _measured(pool, samples[rooms.index(room)])
        except BaseException:
            pool.__exit__()
            raise
        pool.keep(division.jobs)
        return pool, division
    most = devices or max(cores() // (threads or 1), 1)
    if jobs != "auto":
        number = jobs
    elif kept and threads == kept.threads:
        number = min(kept.jobs, most, room)
    else:
        number = min(most, room)
    share = None if devices else max(cores() // number, 1)
    return Pool(min(number, runs), display), Division(jobs=number, threads=threads or share)


def gpus(device: str) -> int:
    """Return how many GPUs the runs of a study may have, one each; 0 where they run on a CPU or one named GPU."""
    return torch.cuda.device_count() if device in ("auto", "cuda") and torch.cuda.is_available() else 0


def _measured(pool: Pool, sample: Sample) -> Division:
    """Return the division of this machine that makes the most images a second, and say what was measured."""
    results = pool.measure(sample)
    texts = [f"{d.jobs} at a time with {counted(d.threads or 1, 'thread')} {rate:,.0f}" for d, rate in results]
    chosen = fastest(results)
    pool.display.say(f"images a second of all runs together, {', '.join(texts)}: {chosen.jobs} at a time")
    return chosen
