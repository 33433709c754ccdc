"""The lock of a run folder: one process trains in it at a time.

The file `.lock` says who holds it, or held it last.
"""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from json import dumps, loads
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from flatnext.errors import InputError, warn_of_fallback
from flatnext.schema import dump, parse

LOCK = ".lock"

HELD = (errno.EWOULDBLOCK, errno.EAGAIN)
"""What the system answers where another process has the lock. Anything else says that it cannot lock here."""


class HeldError(InputError):
    """Another process has the lock."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a lock. `owner` is a name that survives the process, such as that of torchrun's start."""

    host: str = ""
    process: int = 0
    since: str = ""
    owner: str | None = None


@contextmanager
def lock(folder: Path, owner: str | None = None) -> Iterator[None]:
    """Hold the folder's lock within the block, and write who does into its file; without `owner` the last one stays.

    The system releases the lock of a process that ends, whatever the reason. Raises `InputError` if another has it.
    Where the file system has no locks, there is a warning, and the block runs.
    """
    with open(folder / LOCK, "ab", buffering=0) as file:
        _acquire(file.fileno(), folder)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        name = lock_owner(folder) if owner is None else owner
        holder = Holder(host=platform.node(), process=os.getpid(), since=now, owner=name)
        with suppress(OSError):  # a full disk: the lock holds without a name
            file.truncate(0)
            file.write(dumps(dump(holder)).encode())
        yield


def _acquire(file: int, folder: Path) -> None:
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            held = f"another process is running this{_described(_holder(folder))}"
            raise HeldError(f"{folder}: {held}: wait for it, or stop it") from error
        warn_of_fallback(f"{folder} cannot be locked ({error.strerror}): start no second run in it")


def _described(holder: Holder) -> str:
    """Return host, process and time, as far as they are known, in brackets."""
    facts = [f"on {holder.host}"] * bool(holder.host) + [f"process {holder.process}"] * bool(holder.process)
    facts += [f"since {holder.since}"] * bool(holder.since)
    return f" ({', '.join(facts)})" if facts else ""


def lock_owner(folder: Path) -> str | None:
    """Return what the last process that held the lock gave as its owner; None if there was none."""
    return _holder(folder).owner


def _holder(folder: Path) -> Holder:
    """Return what the lock's file says. That of version 0.1.0 is the owner alone."""
    path = folder / LOCK
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    try:
        return parse(Holder, loads(text), unknown="ignore")
    except ValueError:
        return Holder(owner=text or None)
