"""Ending a run between two steps when somebody asks for it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(KeyboardInterrupt):
    """The run was asked to stop and has written a checkpoint; the message says where."""


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C or a termination signal has come.

    A second signal does what it did before. Outside the main thread signals cannot be caught, and nothing changes.
    """
    came = threading.Event()
    before: dict[int, Any] = {}

    def handle(number: int, frame: Any) -> None:
        came.set()
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, handle)
    try:
        yield came.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
