"""A run from its config to its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flatnext.config import Config
from flatnext.config.setting import require
from flatnext.progress import Display
from flatnext.runs.folder import RunFolder
from flatnext.runs.records import Epoch, Result
from flatnext.training.inputs import KnownData
from flatnext.training.options import Keep, OnDivergence, Options, Threads
from flatnext.training.session import run_session
from flatnext.training.trainer import Trainer


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
    keep_checkpoints: Keep | None = None,
    on_divergence: OnDivergence | None = None,
    known: KnownData | None = None,
    threads: Threads | None = None,
) -> Result:
    """Train the model that `config` describes, leave a run folder at `output`, and return its result.

    The result (also `result.json`) has the scores on the validation and test set of the `last` epoch's weights and of
    the `best` by validation accuracy (of uneven classes: balanced accuracy), which are in `last.safetensors` and
    `best.safetensors`. The test set chooses nothing. With `resume`, a run whose folder has a result returns it.

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
        after_checkpoint: called after each checkpoint of the training, also of a return to an earlier one, by the first
            of several processes. What it raises ends the run, which can be resumed.
        keep_checkpoints: the checkpoints from the ends of so many epochs, the last ones, or `all` stay in the folder
            `checkpoints`, each as large as weights and optimizer, so that epochs can be replayed (`flatnext verify`).
            None: as in the run's last session, and none in a new run.
        on_divergence: what to do where the loss is not finite: `stop`, or `rollback`: go back to the last end of an
            epoch and on with half the learning rate, at most three times. None: as in the last session, or `stop`.
        known: data of another run. Where those of this one are not the same, that is refused or said.
        threads: with how many threads a CPU computes; the bits of the results depend on it. `auto` measures, in a
            second or two, which number trains fastest beside what else the machine does; a run that is resumed keeps
            it. None: as many as torch has.

    Started by torchrun, the processes train the run together, and one of them writes. They must all see the folders.

    Raises:
        InputError: anything that the user can mend, among it a loss that is not finite.
        Stopped: Ctrl-C or a termination signal came; a checkpoint has been written.
    """
    name = config if isinstance(config, str) else "quick"
    require(isinstance(config, Config), f"config is {config!r}: give a Config, such as flatnext.recipe({name!r})")
    options = Options(
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
        keep_checkpoints=keep_checkpoints,
        on_divergence=on_divergence,
        known=known,
        threads=threads,
    )
    return run_session(config, output, options, Trainer.fit, RunFolder.result)


def train_epochs(config: Config, output: Path | str, **options: Any) -> tuple[Epoch, ...]:
    """Train to the last epoch without an evaluation on the test set, and return the metrics of the epochs.

    For what chooses settings by the validation split. The config must have `test_curve` False. The run is left without
    a result; `train` with `resume` gives it one. `options` are arguments of `train`, whose errors are these too.
    """
    require(not config.test_curve, "test_curve is True: set it to False, so that the test set is not evaluated")
    return run_session(config, output, Options(track=(), **options), Trainer.train_epochs, RunFolder.epochs)
