"""Ending a run when somebody asks for it: between two steps, or within a long one, or an evaluation."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(KeyboardInterrupt):
    """The run was asked to stop; the message says where it is, and how it goes on."""


class Interrupted(Exception):  # noqa: N818 - it is no error
    """A step or an evaluation was left undone since the run was asked to stop. The state is that before it."""


class StopRequest:
    """Whether somebody has asked a run to stop."""

    def __init__(self) -> None:
        self._came = threading.Event()

    def __call__(self) -> bool:
        """Return whether it has come."""
        return self._came.is_set()

    def come(self) -> None:
        """Ask the run to stop."""
        self._came.set()

    def check(self) -> None:
        """Raise `Interrupted` if it has come, where work may be left undone."""
        if self():
            raise Interrupted


@contextmanager
def stop_on_signal(request: StopRequest | None = None) -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C or a termination signal has come; `request` is told of it as well.

    A second Ctrl-C does what it did before: it raises KeyboardInterrupt at once. A second termination signal does
    nothing, as supervisors send it to a process and its parent sends it again. A signal that the process ignores, as a
    shell lets its background jobs ignore Ctrl-C, stays ignored. Outside the main thread signals cannot be
    caught, and nothing changes.
    """
    asked = request or StopRequest()
    before: dict[int, Any] = {}

    def handle(number: int, frame: Any) -> None:
        asked.come()
        if number == signal.SIGINT:
            signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        # None: it was set by C code, and could not be set back.
        before = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
        for number in before:
            signal.signal(number, handle)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
