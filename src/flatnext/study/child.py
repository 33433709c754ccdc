"""A worker process as its parent sees it: what it is asked, what it answers, and ending it."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
from contextlib import suppress
from typing import Any

import torch

from flatnext.cpu import sleeping
from flatnext.launch import python
from flatnext.schema import dump
from flatnext.study.assignment import Assignment

STOP_SECONDS = 60.0
"""In which a run that is asked to stop writes its checkpoint; then its process is killed."""

Message = tuple["Child", dict[str, Any] | None]
"""What a child has sent; None: it has ended."""


class Child:
    """A process of `flatnext.study.worker`, and the run that it makes. What it sends goes into `inbox`."""

    def __init__(self, number: int, inbox: queue.SimpleQueue[Message]) -> None:
        self.process = subprocess.Popen(
            python("flatnext.study.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=_environment(number),
            start_new_session=True,  # Ctrl-C is for the parent, which asks the workers to stop
        )
        self.assignment: Assignment | None = None
        threading.Thread(target=self._read, args=(inbox,), daemon=True).start()

    def _read(self, inbox: queue.SimpleQueue[Message]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            inbox.put((self, json.loads(line)))
        inbox.put((self, None))

    def send(self, request: dict[str, Any]) -> None:
        """Send a request; a process that has ended will be noticed by what it does not answer."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()

    def begin(self, assignment: Assignment) -> None:
        """Have the process make a run."""
        self.assignment = assignment
        self.send({"run": dump(assignment)})

    def end(self) -> Assignment:
        """Return the run that was made; the process is free for another."""
        assert self.assignment is not None
        done, self.assignment = self.assignment, None
        return done

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ask the process, or by another signal tell it, to end."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def close(self) -> None:
        """End the process, which stops when its input ends."""
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


def _environment(number: int) -> dict[str, str]:
    """Return the environment of a worker: threads that sleep while they wait, and of several GPUs its own."""
    environment = sleeping(os.environ)
    if torch.cuda.is_available() and torch.cuda.device_count() > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        count = torch.cuda.device_count()
        names = visible if len(visible) == count and all(visible) else [str(index) for index in range(count)]
        environment["CUDA_VISIBLE_DEVICES"] = names[number % count]
    return environment
