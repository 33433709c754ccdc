"""A run from its config to its result."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from flatnext import data
from flatnext.config import Config, described_change, longer
from flatnext.config.setting import require
from flatnext.device import keep_memory, resolve_device
from flatnext.errors import InputError
from flatnext.launch import attempt, ignored, launch
from flatnext.processes import join_processes
from flatnext.progress import Display
from flatnext.runs.comparison import require_as_trained
from flatnext.runs.folder import RunFolder
from flatnext.runs.records import Epoch, Result
from flatnext.training.checkpoint import read_checkpoint
from flatnext.training.environment import environment
from flatnext.training.inputs import load_data
from flatnext.training.run_state import RunState
from flatnext.training.starting import normalized, settled
from flatnext.training.trackers import check_trackers
from flatnext.training.trainer import Trainer

Outcome = TypeVar("Outcome")

NO_STATE = "; momentum begins anew, as a finished run with such a schedule does not keep it"


def train(
    config: Config,
    output: Path | str,
    *,
    data_dir: Path | str = ".data",
    device: str = "auto",
    download: bool = True,
    resume: bool = False,
    changes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    display: Display | None = None,
    command: str | None = None,
    track: Sequence[str] = ("tensorboard",),
    after_checkpoint: Callable[[], object] | None = None,
) -> Result:
    """Train the model that `config` describes, leave a run folder at `output`, and return its result.

    The result (also `result.json`) has the scores on the validation and test set of the `last` epoch's weights and of
    the `best` by validation accuracy, which are in `last.safetensors` and `best.safetensors`. The test set chooses
    nothing. A run whose folder has a result already returns it.

    Args:
        config: what to train; see `flatnext.config.recipes`.
        output: the run folder. It may exist only if `resume` or `overwrite` is given. A run that fails before its first
            step leaves none.
        data_dir: where the data set lies, or is downloaded to.
        device: `auto`, `cpu`, `cuda` …
        download: whether a missing data set may be fetched.
        resume: go on from the folder's last checkpoint; on a CPU the weights end as if it had never stopped. The
            config must be that of the checkpoint, its number of epochs too. The device, the number of processes and
            where the data lie may change.
        changes: with `resume`, settings that make the run longer: `epochs`, and where its learning rate depends on
            their number a `schedule` for those that are left; see `flatnext.config.longer`.
        overwrite: delete the run that the folder holds.
        display: where progress is shown; nowhere by default.
        command: what to note as the command of this session; by default the process's own.
        track: where the metrics go as well: `tensorboard`, `wandb`, `mlflow`.
        after_checkpoint: called after each checkpoint, by the first of several processes. What it raises ends the run,
            which can be resumed.

    Started by torchrun, the processes train the run together, and one of them writes. They must all see the folders.

    Raises:
        InputError: anything that the user can mend, among it a loss that is not finite.
        Stopped: Ctrl-C or a termination signal came; a checkpoint has been written.
    """
    return _train(
        config,
        output,
        Trainer.fit,
        RunFolder.result,
        data_dir=data_dir,
        device=device,
        download=download,
        resume=resume,
        changes=changes,
        overwrite=overwrite,
        display=display,
        command=command,
        track=track,
        after_checkpoint=after_checkpoint,
    )


def train_epochs(
    config: Config,
    output: Path | str,
    *,
    data_dir: Path | str = ".data",
    device: str = "auto",
    download: bool = True,
    resume: bool = False,
    display: Display | None = None,
    command: str | None = None,
    after_checkpoint: Callable[[], object] | None = None,
) -> tuple[Epoch, ...]:
    """Train to the last epoch without an evaluation on the test set, and return the metrics of the epochs.

    For what chooses settings by the validation split. The config must have `test_curve` False. The run is left without
    a result; `train` with `resume` gives it one. Arguments and errors are those of `train`.
    """
    require(not config.test_curve, "test_curve is True: set it to False, so that the test set is not evaluated")
    return _train(
        config,
        output,
        Trainer.train_epochs,
        RunFolder.epochs,
        data_dir=data_dir,
        device=device,
        download=download,
        resume=resume,
        changes=None,
        overwrite=False,
        display=display,
        command=command,
        track=(),
        after_checkpoint=after_checkpoint,
    )


def _train(
    config: Config,
    output: Path | str,
    work: Callable[[Trainer], Outcome],
    read: Callable[[RunFolder], Outcome],
    *,
    data_dir: Path | str,
    device: str,
    download: bool,
    resume: bool,
    changes: Mapping[str, Any] | None,
    overwrite: bool,
    display: Display | None,
    command: str | None,
    track: Sequence[str],
    after_checkpoint: Callable[[], object] | None,
) -> Outcome:
    """Load or begin the run and return what `work` does with its trainer, or what `read` finds of a finished one."""
    check_trackers(track)
    folder, config = RunFolder(Path(output)), settled(config)
    with join_processes(device) as (processes, device):
        display = display if display and processes.first else Display()
        speaks = display.speaks
        if note := ignored():
            display.say(note)
        where = resolve_device(device)  # what cannot run at all is said first, and before anything is downloaded
        # After a restart the run that this launch began goes on; any other run in the folder is left alone.
        again = processes.on_first(lambda: attempt() > 0 and folder.owner() == launch())
        resume, overwrite = resume or again, overwrite and not again
        before = config
        if changes:
            config = with_more_epochs(folder, config, changes)
        if not resume:
            data.check_place(config.data.dataset, data_dir, download=download)
        processes.on_first(lambda: folder.check(before, resume=resume, overwrite=overwrite))
        done = folder.finished() and not overwrite and config == before
        result = processes.on_first(lambda: read(folder) if done else None)
        if result is not None:
            require_as_trained(folder.path, config)
            return result
        began = folder.path if resume else None
        partition = processes.first_then_others(
            lambda: load_data(config, data_dir, began=began, download=download, progress=speaks)
        )
        for note in partition.notes:
            display.say(note)
        partition = normalized(config, partition, folder.path)
        keep_memory()
        run = RunState(config, folder, partition, where, processes)
        new = overwrite or folder.is_empty()
        made = processes.on_first(lambda: folder.create(config, overwrite=overwrite))
        with contextlib.ExitStack() as stack:
            processes.on_first(lambda: stack.enter_context(folder.locked(launch())))
            if new and processes.first:
                stack.enter_context(folder.removed_unless(lambda: run.step > 0, made))
            run.load(before)
            if config != before:
                display.say(described_change(before, config) + ("" if run.has_optimizer_state else NO_STATE))
                run.save()  # a checkpoint of the new config, before the folder has it
            if processes.first:
                folder.keep_epochs(run.epoch)
                changed = {name: value for name, value in config.flat().items() if before.flat().get(name) != value}
                typed = command or shlex.join(sys.orig_argv)
                folder.add_environment(environment(run, typed, Path(data_dir), changed))
                if changed:
                    folder.make_longer(config)
            return work(Trainer(run, display, track, after_checkpoint))


def with_more_epochs(folder: RunFolder, config: Config, changes: Mapping[str, Any]) -> Config:
    """Return the config of the run in a folder with more epochs; `InputError` where it cannot be made longer."""
    checkpoint = read_checkpoint(folder.path, finished=folder.finished())
    state = {"epoch": 0} if checkpoint is None else checkpoint.state
    done = folder.result().last.epoch if state is None else state["epoch"]
    try:
        return longer(config, changes, done)
    except InputError as error:
        raise InputError(f"{folder.path}: {error}") from error
