"""A run that is to be made, and what became of it: the same in this process and in one of several."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flatnext.config import Config
from flatnext.device import threads
from flatnext.errors import InputError
from flatnext.progress import Display
from flatnext.runs.folder import RunFolder
from flatnext.runs.lock import HeldError
from flatnext.training import Stopped, train


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A run, with the arguments of `flatnext.train` for it. `threads` None: as many as the process has."""

    config: Config
    folder: str
    data_dir: str
    device: str
    download: bool
    overwrite: bool
    command: str
    track: tuple[str, ...]
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a run. `held`: another process has it. `refused`: it could not be started."""

    kind: Literal["finished", "failed", "held", "stopped", "refused"]
    message: str = ""


def carry_out(assignment: Assignment, display: Display) -> Outcome:
    """Make a run, going on with what is half-finished unless it is to be overwritten."""
    folder = Path(assignment.folder)
    try:
        with threads(assignment.threads):
            train(
                assignment.config,
                folder,
                data_dir=assignment.data_dir,
                device=assignment.device,
                download=assignment.download,
                resume=not assignment.overwrite,
                overwrite=assignment.overwrite,
                display=display,
                command=assignment.command,
                track=assignment.track,
            )
    except Stopped as error:
        return Outcome(kind="stopped", message=str(error))
    except HeldError as error:
        return Outcome(kind="held", message=str(error))
    except InputError as error:
        return Outcome(kind="failed" if RunFolder(folder).failed() else "refused", message=str(error))
    return Outcome(kind="finished")
