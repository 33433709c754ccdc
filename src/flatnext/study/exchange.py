"""A study on storage that a cluster reaches, and its copy on this machine, where the report is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from flatnext.errors import InputError
from flatnext.files import write_atomically
from flatnext.runs.folder import RunFolder
from flatnext.runs.lock import HeldError
from flatnext.runs.reading import METRICS, RESULT, STUDY
from flatnext.study.division import Division
from flatnext.study.plan import PlannedRun, RunPlan
from flatnext.study.presence import at_work
from flatnext.study.storage import ATTEMPT, Storage, StorageError
from flatnext.words import counted

Say = Callable[[str], object]


class Exchange:
    """Keeps a study's folder on this machine and its storage, where there is one, alike.

    `sign` is the name by which the storage says that this process is at work on the study.
    """

    def __init__(self, output: Path, storage: Storage | None, sign: str) -> None:
        self.output, self.storage, self.sign = output, storage, sign

    @property
    def url(self) -> str | None:
        """The storage as nodes are to call it."""
        return self.storage.url if self.storage else None

    def name(self, folder: Path) -> str:
        """Return what a run's folder is called in the study's."""
        return folder.relative_to(self.output).as_posix()

    def bring_plan(self) -> None:
        """Bring the plan of a study that is on the storage alone."""
        if self.storage and not (self.output / STUDY).exists() and (plan := self.storage.read(STUDY)):
            self.output.mkdir(parents=True, exist_ok=True)
            write_atomically(self.output / STUDY, plan)

    def begin(self, runs: Sequence[PlannedRun], say: Say) -> None:
        """Bring each run to where it has more epochs: from the storage to here, or from here to there."""
        if self.storage is None:
            return
        brought = sent = 0
        for run in runs:
            RunFolder(run.folder).check(run.config, resume=True, overwrite=False)
            name = self.name(run.folder)
            if _how_far(RunFolder(run.folder)) > self._how_far(name) or self._is_here_alone(run.folder, name):
                self.storage.push(run.folder, name)
                sent += 1
            else:
                brought += self.storage.pull(name, run.folder)
        if brought or sent:
            say(f"{self.storage.url}: brought {counted(brought, 'run')} from there, sent {sent} that were further here")

    def plan(self, plan: RunPlan, command: str, division: Division | None, *, overwrite: bool = False) -> None:
        """Write the plan of the study, here and there."""
        plan.write(self.output, command, division, overwrite=overwrite)
        if self.storage:
            self.storage.write(STUDY, (self.output / STUDY).read_bytes())

    def clear(self, runs: Sequence[PlannedRun]) -> None:
        """Delete the runs, here and there, but for those that another process has."""
        for run in runs:
            if self.storage:
                self.storage.clear(self.name(run.folder))
                self.storage.write(f"{self.name(run.folder)}/{ATTEMPT}", b"overwritten")  # ends who still makes it
            with suppress(HeldError):
                RunFolder(run.folder).empty(run.config)

    def end(self, folder: Path) -> None:
        """Bring a run that has ended."""
        if self.storage:
            self.storage.pull(self.name(folder), folder)

    def _is_here_alone(self, folder: Path, name: str) -> bool:
        """Return whether a run, which may be within its first epoch, is not on the storage."""
        assert self.storage is not None
        return RunFolder(folder).is_run() and not self.storage.names(name)

    def _how_far(self, name: str) -> tuple[bool, int]:
        assert self.storage is not None
        metrics = self.storage.read(f"{name}/{METRICS}") or b""
        return self.storage.read(f"{name}/{RESULT}") is not None, metrics.count(b"\n")


def _how_far(folder: RunFolder) -> tuple[bool, int]:
    """Return whether a run has finished, and its epochs."""
    return folder.finished(), len(folder.epochs())


@contextmanager
def kept_on(storage: str | None, output: Path, say: Say) -> Iterator[Exchange]:
    """Give the exchange between a study's folder and a storage; with None it exchanges nothing."""
    if storage is None:
        yield Exchange(output, None, "")
        return
    try:
        place = Storage(storage)
        with at_work(place, say) as sign:
            yield Exchange(output, place, sign)
    except StorageError as error:
        raise InputError(f"{error}: correct --storage, or try again") from error
