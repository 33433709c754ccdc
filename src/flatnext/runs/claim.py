"""The claim on a folder: a file that is there while a process has the folder, and whose time moves while that lives.

The system's own lock does nothing on some shared file systems, and on others holds between the processes of one machine
alone. The claim holds wherever a file can be made that was not there: who finds one looks whether its process is alive.
On the same machine that is known at once; of another's process the file's time is watched, which it renews.
"""

from __future__ import annotations

import os
import platform
import secrets
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from json import dumps, loads
from pathlib import Path

from flatnext.errors import InputError, warn_of_fallback
from flatnext.schema import dump, parse

CLAIM = ".held"

BEAT_SECONDS = 2.0
"""In which a process renews the time of its claim."""

PATIENCE_SECONDS = 20.0
"""How long the time of another machine's claim stands still before its process counts as ended."""

POLL_SECONDS = 0.5


class HeldError(InputError):
    """Another process has the folder."""


def place() -> str:
    """Return where the numbers of processes are those that this one knows: a start of a machine, or of a container.

    Where the system does not tell its starts apart, that is the machine.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node() if os.name == "posix" else ""


def began(process: int) -> str | None:
    """Return when a process of this place began, as the system counts it, "" where it does not say; None: it ended."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        state, *facts = text.rpartition(")")[2].split()
        return None if state in "ZX" else facts[18]  # one that has ended is there until its parent asks for its status
    except (OSError, IndexError, ValueError):
        if Path("/proc/self/stat").exists():
            return None
    if os.name != "posix":  # signal 0 is Ctrl-C on Windows
        return ""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except OSError:  # it is another user's
        pass
    return ""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a folder. `owner` is a name that survives the process, such as that of torchrun's start.

    `place` and `began` tell the process from others of the same number, `token` a claim from any other.
    """

    host: str = ""
    process: int = 0
    since: str = ""
    owner: str | None = None
    place: str = ""
    began: str = ""
    token: str = ""

    def described(self) -> str:
        """Return host, process and time, as far as they are known, in brackets."""
        facts = [f"on {self.host}"] * bool(self.host) + [f"process {self.process}"] * bool(self.process)
        facts += [f"since {self.since}"] * bool(self.since)
        return f" ({', '.join(facts)})" if facts else ""


def this_process(since: str, owner: str | None) -> Holder:
    """Return this process as a holder, with a new token."""
    own = os.getpid()
    return Holder(
        host=platform.node(),
        process=own,
        since=since,
        owner=owner,
        place=place(),
        began=began(own) or "",
        token=secrets.token_hex(8),
    )


def held(folder: Path, holder: Holder) -> HeldError:
    """Return the error that says who has a folder."""
    return HeldError(f"{folder}: another process is running this{holder.described()}: wait for it, or stop it")


@dataclass(kw_only=True)
class Claim:
    """This process's claim on a folder, which a thread of its own renews until it is given back."""

    folder: Path
    holder: Holder
    _ended: threading.Event = field(default_factory=threading.Event)
    _beating: threading.Thread | None = None

    def begin(self) -> None:
        """Make the claim; `HeldError` if a living process has one."""
        path = self.folder / CLAIM
        while not self._make():
            other = read_holder(path)
            if other is None:
                continue  # gone meanwhile
            if _lives(self.folder, other):
                raise held(self.folder, other)
            _remove(path, other)
        beating = threading.Thread(target=self._beat, name="flatnext-claim", daemon=True)
        beating.start()
        self._beating = beating

    def end(self) -> None:
        """Give the claim back, unless another process has taken it over."""
        self._ended.set()
        if self._beating:
            self._beating.join()
        # Without a token it is this one's that a full disk did not let it write, if it made one.
        own = ("", self.holder.token) if self._beating else (self.holder.token,)
        if (now := read_holder(self.folder / CLAIM)) and now.token in own:
            (self.folder / CLAIM).unlink(missing_ok=True)

    def require(self) -> None:
        """Raise `InputError` if another process has taken the folder over, as it may from one that stood still."""
        now = read_holder(self.folder / CLAIM)
        if now is not None and now.token not in ("", self.holder.token):
            raise InputError(
                f"{self.folder}: another process has taken this over{now.described()}, since this one had stood still "
                f"for {PATIENCE_SECONDS:.0f} seconds: this one ends"
            )

    def _make(self) -> bool:
        """Make the file; return whether it was not there."""
        try:
            descriptor = os.open(self.folder / CLAIM, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            with open(descriptor, "wb", buffering=0) as file, suppress(OSError):  # a full disk: it holds without a name
                file.write(dumps(dump(self.holder)).encode())
        except KeyboardInterrupt:
            (self.folder / CLAIM).unlink(missing_ok=True)  # a claim without a token is not known as this one's
            raise
        return True

    def _beat(self) -> None:
        path = self.folder / CLAIM
        while not self._ended.wait(BEAT_SECONDS):
            with suppress(OSError):  # a file system that does not answer for a while
                now = read_holder(path)
                if now is None:
                    self._make()  # somebody has deleted it, or is about to take over and will see this one live
                elif now.token in ("", self.holder.token):
                    os.utime(path)
                else:
                    return  # taken over: `require` says so


def read_holder(path: Path) -> Holder | None:
    """Return what a claim or a lock says, as far as it can be read; None where there is no such file.

    The lock of version 0.1.0 is the owner alone.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    try:
        return parse(Holder, loads(text), unknown="ignore")
    except ValueError:
        return Holder(owner=text or None)


def is_claimed(folder: Path) -> bool:
    """Return whether a living process has a claim on a folder, as far as can be known."""
    holder = read_holder(folder / CLAIM)
    return holder is not None and _lives(folder, holder)


def _lives(folder: Path, holder: Holder) -> bool:
    """Return whether the process that made the claim on a folder lives, as far as can be known."""
    if holder.place and holder.place == place():
        now = began(holder.process)
        if now is None or holder.began:
            return now == holder.began
        # There is a process of this number, which may have begun after a restart of the machine: its claim tells.
    warn_of_fallback(
        f"{folder} was left by a process{holder.described()} that did not say it had ended: "
        f"{PATIENCE_SECONDS:.0f} seconds to see whether it lives"
    )
    before, until = _time(folder / CLAIM), time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        time.sleep(POLL_SECONDS)
        now_is = _time(folder / CLAIM)
        if now_is != before:
            return now_is is not None
    return False


def _time(path: Path) -> int | None:
    """Return the time of a file as the server of a network file system has it: opening it asks there."""
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _remove(path: Path, holder: Holder) -> None:
    """Remove the claim of a process that has ended, and no other: somebody else may be doing the same."""
    grave = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        os.rename(path, grave)
    except FileNotFoundError:
        return
    if (found := read_holder(grave)) and found.token != holder.token:
        with suppress(OSError):  # a new one: it goes back
            os.link(grave, path)
    grave.unlink(missing_ok=True)
