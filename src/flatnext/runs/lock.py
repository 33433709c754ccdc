"""The lock of a run folder: one process trains in it at a time.

It is the system's lock of the file `.lock`, which a process that ends lets go of, and a claim beside it for file
systems where that does nothing. `.lock` says who holds it, or held it last.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from json import dumps
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from flatnext.errors import InputError
from flatnext.files import REMEDY
from flatnext.runs.claim import Claim, HeldError, Holder, held, read_holder, this_process
from flatnext.schema import dump

__all__ = ["LOCK", "SECONDS", "HeldError", "lock", "lock_owner", "wait_for_lock"]

LOCK = ".lock"

SECONDS = 60.0
"""How long to wait for another process that is soon done."""

HELD = (errno.EWOULDBLOCK, errno.EAGAIN)
"""What the system answers where another process has the lock. Anything else says that it cannot lock here."""


@contextmanager
def lock(folder: Path, owner: str | None = None) -> Iterator[Claim]:
    """Hold the folder's lock within the block, and write who does into its file; without `owner` the last one stays.

    Where the process ends, whatever the reason, another gets it: on the same machine at once, elsewhere when the claim
    has stood still for a while. `HeldError`: another process has it. `InputError`: the folder cannot be written, or is
    gone.
    """
    with ExitStack() as stack:
        try:
            claim = _taken(folder, owner, stack)
        except OSError as error:
            raise InputError(f"cannot write {folder}: {error.strerror}; {REMEDY}") from error
        yield claim


def _taken(folder: Path, owner: str | None, stack: ExitStack) -> Claim:
    """Take the lock and the claim until the stack is closed."""
    file = stack.enter_context(open(folder / LOCK, "ab", buffering=0))  # noqa: SIM115  the stack closes it
    if not _acquire(file.fileno()):
        raise held(folder, read_holder(folder / LOCK) or Holder())
    now = datetime.now(UTC).isoformat(timespec="seconds")
    claim = Claim(folder=folder, holder=this_process(now, lock_owner(folder) if owner is None else owner))
    stack.callback(claim.end)
    claim.begin()
    with suppress(OSError):  # a full disk: the lock holds without a name
        file.truncate(0)
        file.write(dumps(dump(claim.holder)).encode())
    return claim


@contextmanager
def wait_for_lock(folder: Path) -> Iterator[None]:
    """Let one process after the other run the block; `HeldError` where another takes longer than `SECONDS`."""
    began = time.monotonic()
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lock(folder))
                break
            except HeldError:
                if time.monotonic() - began > SECONDS:
                    raise
                time.sleep(0.05)
        yield


def _acquire(file: int) -> bool:
    """Take the system's lock of an open file; return False where another process has it."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in HELD  # where there are no locks, there is the claim
    return True


def lock_owner(folder: Path) -> str | None:
    """Return what the last process that held the lock gave as its owner; None if there was none."""
    return (read_holder(folder / LOCK) or Holder()).owner
