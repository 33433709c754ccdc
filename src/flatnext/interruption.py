"""A signal to end as `KeyboardInterrupt`, also where C code makes another error of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `KeyboardInterrupt` within the block for SIGINT and SIGTERM, so that what is half done is cleared away.

    C code that is interrupted, as that of torch, may raise an error of its own that says nothing of it: an error after
    a signal becomes `KeyboardInterrupt` as well. A handler that the program has set is kept. Outside the main thread
    signals cannot be caught, and nothing changes.
    """
    came: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        before = {number: handler for number, handler in handlers.items() if handler in DEFAULTS}
    try:
        for number in before:
            signal.signal(number, interrupt)
        yield
    except Exception as error:
        if came:
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
