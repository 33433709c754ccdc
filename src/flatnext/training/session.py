"""A session of a run: from its config and the folder as it is to a trainer that goes on, and what that does."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from flatnext import data
from flatnext.config import Config, described_change, longer
from flatnext.device import keep_memory, resolve_device, threads
from flatnext.errors import InputError
from flatnext.launch import attempt, ignored, launch
from flatnext.processes import Processes, join_processes
from flatnext.progress import Display
from flatnext.runs.claim import Claim, HeldError, began
from flatnext.runs.comparison import require_as_trained
from flatnext.runs.folder import RunFolder
from flatnext.runs.reading import ENVIRONMENT
from flatnext.training.checkpoint import Checkpoint, put_last, read_checkpoint
from flatnext.training.environment import environment
from flatnext.training.inputs import load_data
from flatnext.training.memory import require_memory
from flatnext.training.options import Options
from flatnext.training.run_state import RunState
from flatnext.training.starting import normalized, settled
from flatnext.training.threads import choose_threads
from flatnext.training.trackers import check_trackers
from flatnext.training.trainer import Trainer

Outcome = TypeVar("Outcome")

NO_STATE = "; momentum begins anew, as a finished run with such a schedule does not keep it"


def run_session(
    config: Config,
    output: Path | str,
    options: Options,
    work: Callable[[Trainer], Outcome],
    read: Callable[[RunFolder], Outcome],
) -> Outcome:
    """Load or begin the run and return what `work` does with its trainer, or what `read` finds of a finished one."""
    check_trackers(options.track)
    folder, before = RunFolder(Path(output)), settled(config)
    with join_processes(options.device) as (processes, device), ExitStack() as stack:
        display = options.display if options.display and processes.first else Display()
        if note := ignored():
            display.say(note)
        where = resolve_device(device)  # what cannot run at all is said first, and before anything is downloaded
        # After a restart the run that this launch began goes on; any other run in the folder is left alone.
        again = processes.on_first(lambda: attempt() > 0 and folder.owner() == _launch())
        options = replace(
            options, display=display, resume=options.resume or again, overwrite=options.overwrite and not again
        )
        if not options.resume:
            data.check_place(before.data.dataset, options.data_dir, download=options.download)
        hold = _Hold(folder, before, options, processes, stack)
        hold.check()
        result = hold.result(before, read) if not options.changes else None
        if result is not None:
            return result
        if processes.on_first(folder.is_run):  # from here on nobody else changes what is read
            hold.take()
        checkpoint = None
        if options.resume and folder.is_run():
            checkpoint = read_checkpoint(folder.path, finished=folder.finished())
            if checkpoint:
                processes.on_first(functools.partial(put_last, checkpoint))
        config = with_more_epochs(folder, before, options.changes, checkpoint) if options.changes else before
        result = hold.result(config, read)
        if result is not None:
            return result
        partition = processes.first_then_others(
            lambda: load_data(
                config,
                options.data_dir,
                channels=checkpoint.channels if checkpoint else None,
                download=options.download,
                progress=display.speaks,
                known=options.known,
            )
        )
        for note in partition.notes:
            display.say(note)
        keep_memory()
        run = RunState(config, folder, normalized(config, partition, checkpoint), where, processes)
        require_memory(run)
        if checkpoint is None:
            run.begin()  # what cannot begin deletes nothing
        hold.make(run)
        if checkpoint is not None:
            run.load(checkpoint, before)
        if config != before:
            display.say(
                described_change(before, config, run.rate_factor) + ("" if run.has_optimizer_state else NO_STATE)
            )
            run.save()  # a checkpoint of the new config, before the folder has it
        options = _as_before(options, folder)
        number, note = choose_threads(run, options.threads)
        if note:
            display.say(note)
        stack.enter_context(threads(number))
        if processes.first:
            folder.keep_epochs(run.epoch)
            changed = {name: value for name, value in config.flat().items() if before.flat().get(name) != value}
            folder.begin(config, environment(run, options, changed))
            if changed:
                folder.make_longer(config)
        return work(Trainer(run, options))


def _launch() -> str:
    """Return a name that the restarts of one start of torchrun share, and no other start has.

    Of starts that torchrun calls alike it has the process that started this one, which is torchrun.
    """
    name, parent = launch(), os.getppid()
    return f"none {parent} {began(parent)}" if name == "none" else name


class _Hold:
    """The folder of a session, which its first process holds from `take` or `make` on."""

    def __init__(
        self, folder: RunFolder, config: Config, options: Options, processes: Processes, stack: ExitStack
    ) -> None:
        self.folder, self.config, self.options = folder, config, options
        self.processes, self.stack = processes, stack
        self.claim: Claim | None = None
        self.taken = False

    def check(self) -> None:
        """Raise `InputError` if the run cannot be made or resumed here."""
        resume, overwrite = self.options.resume, self.options.overwrite
        self.processes.on_first(lambda: self.folder.check(self.config, resume=resume, overwrite=overwrite))

    def result(self, config: Config, read: Callable[[RunFolder], Outcome]) -> Outcome | None:
        """Return what `read` finds of a finished run; None if there is something to do."""
        done = self.folder.finished() and not self.options.overwrite and config == self.config
        result = self.processes.on_first(lambda: read(self.folder) if done else None)
        if result is not None:
            require_as_trained(self.folder.path, config)
        return result

    def take(self) -> None:
        """Hold the folder until the session ends; `InputError` if another process does, or has changed it."""
        self.processes.on_first(self._take)
        self.taken = True
        self.check()

    def _take(self) -> None:
        self.claim = self.stack.enter_context(self.folder.locked(_launch()))

    def _require_none(self) -> None:
        """Raise `HeldError` for a run that was made after this session had found none, and that it has not read."""
        if self.folder.is_run() and not self.options.overwrite:
            raise HeldError(
                f"{self.folder.path}: another process has run this meanwhile: the same command goes on with it"
            )

    def make(self, run: RunState) -> None:
        """Make and hold the folder, and tidy it; it is removed if the run fails before its first step."""
        self.processes.on_first(lambda: self.stack.enter_context(self.folder.made()))
        if not self.taken:
            self.take()
            self.processes.on_first(self._require_none)
        new = self.options.overwrite or not self.folder.started()
        run.claim = self.claim
        if new and self.processes.first:
            self.stack.enter_context(self.folder.removed_unless(lambda: run.begun))
        self.processes.on_first(lambda: self.folder.tidy(overwrite=self.options.overwrite))


def _as_before(options: Options, folder: RunFolder) -> Options:
    """Return the options with what the run's last session was told to do where this one is told nothing."""
    last = folder.environment().sessions[-1] if (folder.path / ENVIRONMENT).is_file() else None
    kept = last.keep_checkpoints if last else "0"
    return replace(
        options,
        keep_checkpoints=(
            options.keep_checkpoints if options.keep_checkpoints is not None else "all" if kept == "all" else int(kept)
        ),
        on_divergence=options.on_divergence or (last.on_divergence if last else "stop"),
    )


def with_more_epochs(
    folder: RunFolder, config: Config, changes: Mapping[str, Any], checkpoint: Checkpoint | None
) -> Config:
    """Return the config of the run in a folder with more epochs; `InputError` where it cannot be made longer."""
    state = {"epoch": 0} if checkpoint is None else checkpoint.state
    done = folder.result().last.epoch if state is None else state["epoch"]
    try:
        return longer(config, changes, done)
    except InputError as error:
        raise InputError(f"{folder.path}: {error}") from error
