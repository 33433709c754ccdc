"""A run from its config to its result."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from flatnext import data
from flatnext.config import Config
from flatnext.device import keep_memory, resolve_device
from flatnext.launch import attempt, ignored, launch
from flatnext.processes import join_processes
from flatnext.progress import Display
from flatnext.runs.folder import RunFolder
from flatnext.runs.records import Result
from flatnext.training.environment import environment
from flatnext.training.inputs import load_data
from flatnext.training.run_state import RunState
from flatnext.training.starting import normalized, settled
from flatnext.training.trackers import check_trackers
from flatnext.training.trainer import Trainer


def train(
    config: Config,
    output: Path | str,
    *,
    data_dir: Path | str = ".data",
    device: str = "auto",
    download: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    display: Display | None = None,
    command: str | None = None,
    track: Sequence[str] = ("tensorboard",),
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
        overwrite: delete the run that the folder holds.
        display: where progress is shown; nowhere by default.
        command: what to note as the command of this session; by default the process's own.
        track: where the metrics go as well: `tensorboard`, `wandb`, `mlflow`.

    Started by torchrun, the processes train the run together, and one of them writes. They must all see the folders.

    Raises:
        InputError: anything that the user can mend, among it a loss that is not finite.
        Stopped: Ctrl-C or a termination signal came; a checkpoint has been written.
    """
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
        if not resume:
            data.check_place(config.data.dataset, data_dir, download=download)
        processes.on_first(lambda: folder.check(config, resume=resume, overwrite=overwrite))
        result = processes.on_first(lambda: folder.result() if folder.finished() and not overwrite else None)
        if result is not None:
            return result
        partition = processes.first_then_others(lambda: load_data(config, data_dir, download=download, progress=speaks))
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
            run.load()
            if processes.first:
                folder.keep_epochs(run.epoch)
                folder.add_environment(environment(run, command or shlex.join(sys.orig_argv), Path(data_dir)))
            return Trainer(run, display, track).fit()
