"""A contender in a process of its own, which is told turn by turn what to do and rests in between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from flatnext.errors import InputError

# After a turn worker processes fill their queues and the threads of an OpenMP runtime stay awake a moment.
SETTLE = 0.25


class Child:
    """Runs `python -m MODULE SETTINGS` and talks to it: a JSON object a line, each way.

    glibc's allocator is left at its defaults in it: settings of `MALLOC_` in the environment are not handed on.
    `InputError`: the process has ended; what it had to say is on standard error.
    """

    def __init__(self, module: str, settings: Mapping[str, Any]) -> None:
        self.module = module
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the parent, which then ends the child
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request, wait for the answer and return it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        time.sleep(SETTLE)
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise InputError(
                f"{self.module} ended with status {self.process.wait()} (its message is above): lower --batch-size, "
                "or choose other --parts"
            )
        time.sleep(SETTLE)
        return json.loads(answer)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process: it stops when it is told nothing more."""
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def requests() -> Iterator[dict[str, Any]]:
    """Yield, in a child, what the parent asks for until it asks no more."""
    for line in sys.stdin:
        yield json.loads(line)


def answer(**content: Any) -> None:
    """Answer the parent's request, in a child."""
    print(json.dumps(content), flush=True)


def serve(handle: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer each request of the parent with what `handle` returns for it."""
    for request in requests():
        answer(**handle(request))
