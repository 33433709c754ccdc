"""A run that is to be made, what became of it, and what makes runs: this process, several, or a cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

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
    command: str
    track: tuple[str, ...]
    threads: int | None = None

    @property
    def title(self) -> str:
        """What the run is called where it is shown."""
        return f"{self.config.recipe} seed {self.config.seed}"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a run. `held`: another process has it. `refused`: it could not be started."""

    kind: Literal["finished", "failed", "held", "stopped", "refused"]
    message: str = ""


Outcomes = Generator[tuple[Assignment, Outcome], None, None]
"""Runs that have ended, and how."""

Begun = Callable[[Assignment, Sequence[Assignment], int], None]
"""Told of a run that begins, with those that wait and the number of runs at a time."""


class Runner(Protocol):
    """Makes the runs of a study."""

    def carry_out(self, assignments: Sequence[Assignment], begun: Begun) -> Outcomes:
        """Make the runs, and yield each when it has ended; `begun` is told of each.

        After Ctrl-C or a termination signal those under way are stopped, with a checkpoint, and no more begin.
        """
        ...


class InProcess:
    """Makes the runs in this process, one after the other."""

    def __init__(self, display: Display) -> None:
        self.display = display

    def carry_out(self, assignments: Sequence[Assignment], begun: Begun) -> Outcomes:
        """See `Runner`."""
        for place, assignment in enumerate(assignments, start=1):
            begun(assignment, assignments[place:], 1)
            outcome = carry_out(assignment, self.display)
            yield assignment, outcome
            if outcome.kind == "stopped":
                return


def carry_out(
    assignment: Assignment, display: Display, after_checkpoint: Callable[[], object] | None = None
) -> Outcome:
    """Make a run, going on with what is half-finished."""
    folder = Path(assignment.folder)
    try:
        with threads(assignment.threads):
            train(
                assignment.config,
                folder,
                data_dir=assignment.data_dir,
                device=assignment.device,
                download=assignment.download,
                resume=True,
                display=display,
                command=assignment.command,
                track=assignment.track,
                after_checkpoint=after_checkpoint,
            )
    except Stopped as error:
        return Outcome(kind="stopped", message=str(error))
    except HeldError as error:
        return Outcome(kind="held", message=str(error))
    except InputError as error:
        return Outcome(kind="failed" if RunFolder(folder).failed() else "refused", message=str(error))
    return Outcome(kind="finished")
