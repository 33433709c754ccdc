"""A process that makes the runs that its parent asks for: `python -m flatnext.study.worker`.

A request and an answer are a JSON object on a line. What libraries print goes to standard error. The process ends when
its input ends: a run under way then writes a checkpoint first.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from flatnext.interruption import interruptible
from flatnext.progress import BAR_SECONDS, Display, ShownTask, Task
from flatnext.schema import dump, parse

Send = Callable[[dict[str, Any]], object]


class PipeDisplay(Display):
    """Sends what is to be shown to the parent: lines as `say`, progress as `show` with a fraction and a text."""

    speaks = True

    def __init__(self, send: Send, seconds: float = BAR_SECONDS) -> None:
        self.send, self.seconds = send, seconds

    def say(self, text: str) -> None:
        """See `Display`."""
        self.send({"say": text})

    @contextmanager
    def task(self, title: str, total: float = 1.0, done: float = 0.0) -> Iterator[Task]:
        """See `Display`."""
        yield ShownTask(title, total, done, self.seconds, lambda part, text: self.send({"show": [part, text]}))


class Worker:
    """Reads requests in a thread of its own, so that the end of the input is seen while a run is under way."""

    def __init__(self, input: TextIO, output: TextIO) -> None:
        self.input, self.output = input, output
        self.requests: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.busy = threading.Event()

    def read(self) -> None:
        """Queue the requests; at the end ask the run that is under way to stop."""
        for line in self.input:
            self.requests.put(json.loads(line))
        self.requests.put(None)
        if self.busy.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    def send(self, message: dict[str, Any]) -> None:
        """Write a message; where the parent has gone, nobody reads it."""
        try:
            self.output.write(json.dumps(message) + "\n")
            self.output.flush()
        except BrokenPipeError:
            pass

    def serve(self) -> None:
        """Answer requests until there are no more."""
        threading.Thread(target=self.read, daemon=True).start()
        while (request := self.requests.get()) is not None:
            self.busy.set()
            try:
                with interruptible():
                    self.send(self._answer(request))
            except KeyboardInterrupt:
                self.send({"outcome": {"kind": "stopped", "message": "stopped before its first step"}})
            self.busy.clear()

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "measure" in request:
            from flatnext.study.division import Sample, rate

            return {"rate": rate(parse(Sample, request["measure"]))}
        from flatnext.study.assignment import Assignment, carry_out

        return {"outcome": dump(carry_out(parse(Assignment, request["run"]), PipeDisplay(self.send)))}


def main() -> None:
    """Serve the parent at the other end of standard input and output."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        Worker(sys.stdin, output).serve()
    except KeyboardInterrupt:  # between two runs
        sys.exit(130)


if __name__ == "__main__":
    main()
