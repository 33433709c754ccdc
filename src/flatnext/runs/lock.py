"""The lock of a run folder: one process trains in it at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

from flatnext.errors import InputError

LOCK = ".lock"


@contextmanager
def lock(folder: Path, owner: str | None = None) -> Iterator[None]:
    """Hold the folder's lock within the block, and write `owner` into its file.

    The system releases the lock of a process that ends, whatever the reason. Raises `InputError` if another has it.
    """
    with open(folder / LOCK, "a") as file:
        _acquire(file, folder)
        if owner is not None:
            file.truncate(0)
            file.write(owner)
            file.flush()
        yield


def _acquire(file: TextIO, folder: Path) -> None:
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InputError(f"{folder}: another process is running this: wait for it, or stop it") from error


def lock_owner(folder: Path) -> str | None:
    """Return what the last process that held the lock wrote as its owner; None if there was none."""
    path = folder / LOCK
    return path.read_text() if path.is_file() else None
