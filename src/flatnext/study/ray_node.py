"""A run of a study on a node of a cluster: what it is told, and what it does there. Ray itself plays no part here."""

from __future__ import annotations

import platform
import secrets
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flatnext.schema import dump, parse
from flatnext.study.assignment import Assignment, Outcome, carry_out
from flatnext.study.presence import is_at_work
from flatnext.study.storage import ATTEMPT, Storage, StorageError
from flatnext.study.worker import PipeDisplay, Send
from flatnext.versions import version_of

SHOW_SECONDS = 2.0
"""Between two reports of how far a run is."""

LOOK_SECONDS = 15.0
"""How long a node looks for the study's folder, which network file systems may show late."""

WAIT_SECONDS = 1.0
"""Between two tries of a run that the process that was thought lost still has."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """A run to be made on a node. `assignment.folder` is its path in the study's folder; reports are of `key`.

    `sign`: a file in the folder `study`, or with `storage` a name in its file of who is at work, which says that the
    node sees the same as the head. `again`: it has been begun before, by this command.
    """

    assignment: Assignment
    study: str
    sign: str
    storage: str | None
    key: str = ""
    again: bool = False


def sign_name(sign: str) -> str:
    """Return the name of the file by which a node knows the folder of the study."""
    return f".sign-{sign}"


def make_run(order: dict[str, Any], version: str, send: Send) -> dict[str, Any]:
    """Make a run, and return what became of it. `order` and the result are JSON; `send` takes reports."""
    if (own := version_of("flatnext")) != version:
        return dump(_refused(f"has FlatNeXt {own}, not {version}: install the same on all nodes"))
    return dump(_make(parse(Order, order), PipeDisplay(send, SHOW_SECONDS)))


def _make(order: Order, display: PipeDisplay) -> Outcome:
    assignment = order.assignment
    display.say(f"{assignment.title}: on node {platform.node()}")
    if order.storage is None:
        if not _appears(Path(order.study) / sign_name(order.sign)):
            return _refused(f"does not see the folder {order.study}: put the study on a shared one, or give --storage")
        assignment = replace(assignment, folder=str(Path(order.study) / assignment.folder))
        while (outcome := carry_out(assignment, display)).kind == "held" and order.again:
            time.sleep(WAIT_SECONDS)
        return outcome
    storage = Storage(order.storage)
    if not is_at_work(storage, order.sign):
        return _refused(f"does not see this study at {order.storage}: give a --storage that all nodes reach")
    return _make_on(storage, assignment, display)


def _make_on(storage: Storage, assignment: Assignment, display: PipeDisplay) -> Outcome:
    """Make a run in a folder of this node, which after each checkpoint is copied to the storage."""
    name, attempt = assignment.folder, secrets.token_hex(8).encode()
    with tempfile.TemporaryDirectory(prefix="flatnext-") as scratch:
        folder = Path(scratch) / Path(name).name
        storage.pull(name, folder)
        storage.write(f"{name}/{ATTEMPT}", attempt)

        def push() -> None:
            if storage.read(f"{name}/{ATTEMPT}") != attempt:
                raise StorageError(f"another process makes the run {name} on {storage.url}: this one ends")
            storage.push(folder, name)

        outcome = carry_out(replace(assignment, folder=str(folder)), display, push)
        if folder.is_dir():
            push()
        return replace(outcome, message=outcome.message.replace(str(folder), f"{storage.url}/{name}"))


def _appears(file: Path) -> bool:
    """Return whether a file is there, or comes to be seen within some seconds."""
    until = time.monotonic() + LOOK_SECONDS
    while not file.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.5)
    return True


def _refused(what: str) -> Outcome:
    return Outcome(kind="refused", message=f"node {platform.node()} {what}")
