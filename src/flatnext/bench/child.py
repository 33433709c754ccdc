"""A contender in a process of its own, which works on request and is idle in between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from flatnext.cpu import awake
from flatnext.errors import InputError
from flatnext.launch import python

SETTLE = 0.25  # seconds in which worker processes fill their queues and OpenMP's threads fall asleep after a turn


class Child:
    """Runs `python -m MODULE SETTINGS` and talks to it: a JSON object a line, each way.

    Its allocator and its waiting threads have their defaults: variables `MALLOC_...` of the environment, and those of
    `flatnext.cpu`, are not passed on. `InputError`: the process has ended; its message is on standard error.
    """

    def __init__(self, module: str, settings: Mapping[str, Any]) -> None:
        self.module = module
        environment = {k: v for k, v in awake(os.environ).items() if not k.startswith("MALLOC_")}
        self.process = subprocess.Popen(
            python(module, json.dumps(settings)),
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
        """End the process, which stops when its input ends."""
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def serve(handle: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer, in a child, each request of the parent with the result of `handle`, until the input ends."""
    for line in sys.stdin:
        print(json.dumps(handle(json.loads(line))), flush=True)
