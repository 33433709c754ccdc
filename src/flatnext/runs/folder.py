"""The folder of a run: what its files are called, what state the run is in, and how its files are written."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from flatnext.config import Config, depends_on_length
from flatnext.errors import InputError
from flatnext.files import read_json, remove_temporaries, write_atomically, write_json
from flatnext.progress import printable
from flatnext.runs.claim import CLAIM, Claim
from flatnext.runs.comparison import as_flag, differing
from flatnext.runs.lock import LOCK, lock, lock_owner
from flatnext.runs.reading import (
    CONFIG,
    ENVIRONMENT,
    FAILURE,
    METRICS,
    RESULT,
    STUDY,
    read_config,
    read_environment,
    read_epochs,
    read_result,
)
from flatnext.runs.records import Environment, Epoch, Failure, Result, Rollback
from flatnext.schema import dump
from flatnext.words import counted

KEPT = "checkpoints"
"""The folder of the checkpoints that are kept from the ends of epochs."""

ANOTHER, OVERWRITE = "choose another output folder", "overwrite it (--overwrite, in Python overwrite=True)"
"""What to do about a folder that holds a run."""

# All that a run, and `flatnext evidence` of it, write. The config comes last: what has one is a run folder, also if
# deleting it is cut short.
WRITTEN = (
    RESULT,
    FAILURE,
    METRICS,
    "evidence.json",
    "evidence-best.json",
    "last.safetensors",
    "best.safetensors",
    "previous.safetensors",
    "state-*.pt",
    KEPT,
    "tensorboard",
    ".*.tmp",
    CONFIG,
    ENVIRONMENT,
)


@dataclass(frozen=True)
class RunFolder:
    """A run's folder. `config.json` makes it one, `environment.json` says that it has begun; `result.json` ends it."""

    path: Path

    @property
    def resume_command(self) -> str:
        """What to type to go on with the run."""
        return f"flatnext train --resume {shlex.quote(str(self.path))}"

    def is_run(self) -> bool:
        """Return whether a run was created here: other programs too have a `config.json`."""
        file = self.path / CONFIG
        try:
            content = read_json(file) if file.is_file() else None
        except InputError:
            if (self.path / ENVIRONMENT).is_file():
                raise
            return False
        return isinstance(content, dict) and "recipe" in content and "optimizer" in content

    def started(self) -> bool:
        """Return whether a run got as far as its first step here, by the names of its files alone."""
        names = (ENVIRONMENT, RESULT)
        return (self.path / CONFIG).is_file() and any((self.path / name).is_file() for name in names)

    def finished(self) -> bool:
        """Return whether the run has its result."""
        return (self.path / CONFIG).is_file() and (self.path / RESULT).is_file()

    def failed(self) -> bool:
        """Return whether the run could not go on when it last ran."""
        return (self.path / FAILURE).is_file()

    def check(self, config: Config, *, resume: bool, overwrite: bool) -> None:
        """Raise `InputError` if a run with this config cannot be made or resumed here. Changes nothing.

        It cannot if the path is something else than a run folder, if it holds a run and neither `resume` nor
        `overwrite` says what to do with it, or if the run to resume has another config.
        """
        path = self.path
        try:
            str(path).encode()
        except UnicodeEncodeError:  # TensorBoard cannot write there, and a report cannot name it
            raise InputError(f"{printable(str(path))} is not UTF-8: choose another --output") from None
        if not path.exists() or (path.is_dir() and all(p.match(".*") or p.name == ENVIRONMENT for p in path.iterdir())):
            return  # the environment alone is left by a run that was killed as it began
        if not self.is_run():
            raise InputError(f"{path} exists and is not a run folder: choose another --output")
        if overwrite:
            return
        there = self.config()
        different = differing(there.to_json(), config.to_json())
        longer = self._how_to_lengthen(there, config) if len(different) == 1 else None
        if not resume:
            state, way = ("a finished run", "") if self.finished() else ("a run", f"go on with {self.resume_command}, ")
            note = f"; {longer}" if longer else ""
            raise InputError(f"{path} holds {state}: {way}{ANOTHER}, or {OVERWRITE}{note}")
        if different:
            # The runs of a study keep one schedule: one that depends on the number of epochs cannot go on.
            note = f"; {longer}" if longer and not depends_on_length(there) else ""
            raise InputError(
                f"{path} was made {as_flag(*different[0])}: {ANOTHER}, {OVERWRITE}, or give the same settings{note}"
            )

    def _how_to_lengthen(self, there: Config, wanted: Config) -> str | None:
        """Return what to type to give the run more epochs, where these are wanted and that can be done."""
        if wanted.epochs <= there.epochs or getattr(there.method, "radius_schedule", "constant") != "constant":
            return None
        command = f"{self.resume_command} --epochs {wanted.epochs}"
        if not depends_on_length(there):
            return f"to make the run longer: {command}"
        rate = f"--schedule cosine --lr {there.optimizer.learning_rate / 5:g}"
        return f"to train the added epochs with a schedule of their own: {command} {rate}"

    @contextmanager
    def made(self) -> Iterator[None]:
        """Make the folder, unless it is there; if the block fails, remove what was made for it and is still empty."""
        missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"cannot make {self.path}: {error.strerror}; choose another --output") from error
            yield
        except (Exception, KeyboardInterrupt):
            if self.path in missing and [path.name for path in self.path.glob("*")] == [LOCK]:
                with suppress(InputError), self.locked():  # unless another process has it
                    (self.path / LOCK).unlink()
            for folder in missing:
                with suppress(OSError):  # it holds something
                    folder.rmdir()
            raise

    def tidy(self, *, overwrite: bool) -> None:
        """Delete what a run that was killed has left half-written; with `overwrite`, the run. The lock must be held."""
        try:
            if overwrite or not (self.path / CONFIG).is_file():
                self._clear()
            remove_temporaries(self.path)
            (self.path / FAILURE).unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror}; choose another --output") from error

    def empty(self, config: Config) -> None:
        """Delete the run, if there is one, so that a new one with this config can begin. `HeldError`: it is held."""
        if self.is_run():
            with self.locked():
                self.tidy(overwrite=True)
                write_json(self.path / CONFIG, dump(config))  # it stays a run's folder, whatever else is in it

    def begin(self, config: Config, environment: Environment) -> None:
        """Write where the run runs now, and its config unless there is one: from then on the folder is a run's.

        In this order, so that a run that is killed at any moment goes on with the options that it was given.
        """
        self._add_environment(environment)
        if not (self.path / CONFIG).is_file():
            write_json(self.path / CONFIG, dump(config))

    def make_longer(self, config: Config) -> None:
        """Give the run another config, whose checkpoint is there already. The result goes first, as it is not its."""
        (self.path / RESULT).unlink(missing_ok=True)
        write_json(self.path / CONFIG, dump(config))

    @contextmanager
    def removed_unless(self, begun: Callable[[], bool]) -> Iterator[None]:
        """Remove the run if the block fails before it has `begun`. The lock must be held."""
        try:
            yield
        except (Exception, KeyboardInterrupt):
            if not begun():
                self._clear()
                for name in (LOCK, CLAIM):
                    (self.path / name).unlink(missing_ok=True)
            raise

    def _clear(self) -> None:
        """Delete the run; what somebody else has put into the folder stays."""
        for pattern in WRITTEN:
            for path in self.path.glob(pattern):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def locked(self, owner: str = "") -> AbstractContextManager[Claim]:
        """Keep other processes from running in this folder, and note who does; `InputError` if another does."""
        return lock(self.path, owner)

    def owner(self) -> str | None:
        """Return what the last process to run in this folder gave as its name."""
        return lock_owner(self.path)

    def config(self) -> Config:
        """Return the run's config."""
        return read_config(self.path / CONFIG)

    def environment(self) -> Environment:
        """Return on what the run was made, and from which data."""
        return read_environment(self.path / ENVIRONMENT)

    def data_dir(self) -> Path | None:
        """Return where the run's data lay when it last ran, if that is still there."""
        try:
            known = self.environment().data_dir
        except InputError:  # no run, or a damaged one
            return None
        return Path(known) if known is not None and Path(known).is_dir() else None

    def result(self) -> Result:
        """Return how the run ended."""
        return read_result(self.path / RESULT)

    def write_result(self, result: Result) -> None:
        """Write how the run ended; from then on it counts as finished."""
        write_json(self.path / RESULT, dump(result))

    def write_failure(self, failure: Failure) -> None:
        """Write why the run could not go on."""
        write_json(self.path / FAILURE, dump(failure))

    def done(self) -> str:
        """Return how far the run is: `25 of 100 epochs`."""
        epochs = self.epochs()
        return f"{epochs[-1].epoch if epochs else 0} of {counted(self.config().epochs, 'epoch')}"

    def epochs(self) -> tuple[Epoch, ...]:
        """Return the metrics of the finished epochs."""
        return read_epochs(self.path / METRICS)

    def add_epoch(self, epoch: Epoch) -> None:
        """Add the metrics of a finished epoch."""
        self._write_epochs([*self.epochs(), epoch])

    def keep_epochs(self, count: int) -> None:
        """Drop the metrics after the first `count` epochs: those that a resumed run will measure again."""
        epochs = self.epochs()
        if any(epoch.epoch > count for epoch in epochs):
            self._write_epochs(epoch for epoch in epochs if epoch.epoch <= count)

    def _write_epochs(self, epochs: Iterable[Epoch]) -> None:
        lines = (json.dumps(dump(epoch), allow_nan=False) + "\n" for epoch in epochs)
        write_atomically(self.path / METRICS, "".join(lines))

    def _add_environment(self, environment: Environment) -> None:
        """Write where the run runs now, with the sessions before those of `environment`, and as what it began."""
        file = self.path / ENVIRONMENT
        if file.is_file():
            before, changed = self.environment(), environment.sessions[-1].changed
            now = {name: value for name, value in environment.not_of_recipe.items() if name in changed}
            kept = {name: value for name, value in before.not_of_recipe.items() if name not in changed}
            sessions = (*before.sessions, *environment.sessions)
            environment = replace(
                environment,
                sessions=sessions,
                not_of_recipe=kept | now,
                started_from=before.started_from or environment.started_from,
            )
        write_json(file, dump(environment))

    def note_rollbacks(self, rollbacks: tuple[Rollback, ...]) -> None:
        """Write that the run has gone back, and how often."""
        write_json(self.path / ENVIRONMENT, dump(replace(self.environment(), rollbacks=rollbacks)))


def known_data_dir(run: Path | str, dataset: str | None = None) -> Path | None:
    """Return where the data of a run lay, by its folder or a file in it, if that is still there.

    None for what is no run, such as a name of weights, and where `dataset` is another data set than the run's.
    """
    path = Path(run)
    if not path.exists():
        return None
    folder = RunFolder(path if path.is_dir() else path.parent)
    other = dataset is not None and not (folder.started() and folder.config().data.dataset == dataset)
    return None if other else folder.data_dir()


def require_finished(path: Path) -> None:
    """Raise `InputError` for a run, or a checkpoint in its folder, that has not finished: it may be writing it."""
    folder = RunFolder(path if path.is_dir() else path.parent)
    if path.exists() and folder.started() and not folder.finished():
        raise InputError(f"{folder.path} has not finished: wait, or go on with {folder.resume_command}")


def require_other_images(model: Path | str, test_set: Path | str) -> None:
    """Raise `InputError` for a test set in the folder of the images that a run was trained on.

    `model` is the run's folder, or a file of weights in it.
    """
    images, known = Path(test_set).resolve(), known_data_dir(model)
    if known is None:
        return
    known = known.resolve()
    if images == known or (known in images.parents and images.name.lower() == "train"):
        raise InputError(
            f"{test_set} holds the images that {model} was trained on: give others, or leave it out for the run's own "
            "test images"
        )


def find_runs(folder: Path, most: int | None = None) -> list[Path]:
    """Return the folders of the runs that were started in and below a folder, in order, looking at so many at most."""
    return [path for path, _ in islice(_walk(folder), most) if RunFolder(path).started()]


def find_plans(folder: Path) -> list[Path]:
    """Return the files with the plans of studies in and below a folder, in order."""
    return [path / STUDY for path, files in _walk(folder) if STUDY in files]


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield the folders in and below a folder, with the names of their files; none below a run, and each once.

    Links are followed: runs that were moved to another disk, and linked back, are there.
    """
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(root)) in seen:
            folders[:] = []
            continue
        seen.add(real)
        folders[:] = [] if RunFolder(Path(root)).started() else sorted(folders)
        yield Path(root), files
