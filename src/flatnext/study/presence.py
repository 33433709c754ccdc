"""Who is at work on a study whose storage has no locks: one that makes its runs at a time."""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from flatnext.errors import InputError
from flatnext.study.storage import Storage, StorageError

FILE = "at-work.json"

BEAT_SECONDS = 10.0
"""Between two signs of life; three of them without one say that there is nobody any more."""


@contextmanager
def at_work(storage: Storage, say: Callable[[str], object]) -> Iterator[str]:
    """Give signs of life on the storage within the block, and a name under which they are seen.

    `InputError`: another process gives them. One that was killed gives none: that takes half a minute to see. Clocks
    are not compared.
    """
    found = storage.read(FILE)
    if found is not None:
        say(f"{_who(found)} was at work on {storage.url} and has not said that it ended: half a minute to see if it is")
        until = time.monotonic() + 3 * BEAT_SECONDS
        while time.monotonic() < until:
            time.sleep(BEAT_SECONDS / 10)
            now = storage.read(FILE)
            if now is None:
                break
            if now != found:
                raise InputError(f"{_who(now)} is at work on {storage.url}: wait for it, or stop it")
    name, ended = secrets.token_hex(8), threading.Event()
    own = Storage(storage.url)  # for the thread
    thread = threading.Thread(target=_beat, args=(own, name, ended), daemon=True)
    _sign(own, name, 0)
    thread.start()
    try:
        yield name
    finally:
        ended.set()
        thread.join()
        with suppress(StorageError):
            if is_at_work(own, name):
                own.remove(FILE)


def is_at_work(storage: Storage, name: str) -> bool:
    """Return whether the signs of life under this name are on the storage, as it is seen from here."""
    found = storage.read(FILE)
    return found is not None and _name(found) == name


def _beat(storage: Storage, name: str, ended: threading.Event) -> None:
    count = 0
    while not ended.wait(BEAT_SECONDS):
        count += 1
        with suppress(StorageError):  # the next one may get through
            if (found := storage.read(FILE)) is not None and _name(found) != name:
                return  # taken over while this process stood still: its nodes see that
            _sign(storage, name, count)


def _sign(storage: Storage, name: str, count: int) -> None:
    facts = {"host": platform.node(), "process": os.getpid(), "name": name, "count": count}
    storage.write(FILE, json.dumps(facts).encode())


def _name(content: bytes) -> str:
    return json.loads(content)["name"]


def _who(content: bytes) -> str:
    facts = json.loads(content)
    return f"process {facts['process']} on {facts['host']}"
