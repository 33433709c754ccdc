"""A run from its config to its result."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flatnext import data, methods, models
from flatnext.config import Config
from flatnext.device import autocast, resolve_device
from flatnext.errors import InputError
from flatnext.training.checkpoint import remove_states
from flatnext.training.events import EventLog
from flatnext.training.judge import Judge, better
from flatnext.training.progress import Silent
from flatnext.training.run import Run
from flatnext.training.run_folder import RunFolder, environment
from flatnext.training.step import Step
from flatnext.training.stop import Stopped, stop_on_signal
from flatnext.training.tally import NonFiniteLossError, Tally

CHECKPOINT_SECONDS = 300.0  # within an epoch; the end of an epoch always writes one


def train(
    config: Config,
    output: Path | str,
    *,
    data_dir: Path | str = ".data",
    device: str = "auto",
    download: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    progress: Silent | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Train the model that `config` describes, leave a run folder at `output`, and return its result.

    The result (also `result.json`) has the scores on the validation and test set of the `last` epoch's weights and of
    the `best` by validation accuracy, which are in `last.safetensors` and `best.safetensors`. The test set chooses
    nothing. A run whose folder has a result already returns it.

    Args:
        config: what to train; see `flatnext.recipes`.
        output: the run folder. It may exist only if `resume` or `overwrite` is given.
        data_dir: where the data set lies, or is downloaded to.
        device: `auto`, `cpu`, `cuda` …
        download: whether a missing data set may be fetched.
        resume: go on from the folder's last checkpoint; on a CPU the weights end as if it had never stopped.
        overwrite: delete the run that the folder holds.
        progress: a display; none by default.
        command: what to note as the command of this session; by default the process's own.

    Raises:
        InputError: anything that the user can mend, among it a loss that is not finite.
        Stopped: Ctrl-C or a termination signal came; a checkpoint has been written.
    """
    folder, progress = RunFolder(Path(output)), progress or Silent()
    folder.check(config, resume=resume, overwrite=overwrite)
    if folder.finished() and not overwrite:
        return folder.read_result()
    partition = data.partition(
        data.load(
            config.data.dataset,
            Path(data_dir),
            image_size=config.data.image_size,
            download=download,
            progress=type(progress) is not Silent,
        ),
        config.data,
    )
    run = Run(config, folder, partition, resolve_device(device))
    folder.create(config, overwrite=overwrite)
    run.load()
    folder.keep_metrics(run.epoch)
    facts = environment(run.device, run.precision, models.parameter_count(run.model), partition)
    folder.add_session(facts, command or " ".join(["flatnext", *sys.argv[1:]]), run.step)
    judge = Judge(
        model=run.model,
        partition=partition,
        device=run.device,
        precision=run.precision,
        channels_last=config.channels_last,
    )
    _run_epochs(run, judge, progress)
    return _finish(run, judge)


def _run_epochs(run: Run, judge: Judge, progress: Silent) -> None:
    """Train to the last epoch, or raise what ended the run before."""
    events = EventLog(run.folder.path / "tensorboard", run.step)
    progress.start(f"{run.config.recipe} seed {run.config.seed}", run.total_steps, run.step)
    with stop_on_signal() as stop_requested:
        try:
            while run.epoch < run.config.epochs:
                _train_epoch(run, progress, stop_requested)
                line = _finish_epoch(run, judge)
                events.add(line)
                progress.epoch(line)
        except NonFiniteLossError as error:
            raise _failure(run, error) from error
        finally:
            progress.close()
            events.close()


def _train_epoch(run: Run, progress: Silent, stop_requested: Callable[[], bool]) -> None:
    """Take the steps of the current epoch that are left."""
    take_step = Step(
        model=run.model,
        rule=methods.build(run.config.method),
        optimizer=run.optimizer,
        autocast=functools.partial(autocast, run.precision, run.device),
        label_smoothing=run.config.label_smoothing,
        clip_norm=run.config.optimizer.clip_norm,
    )
    run.model.train()
    tally = run.tally
    clock = saved = time.monotonic()
    for images, labels in run.loader.epoch(run.epoch, run.step_in_epoch):
        run.set_learning_rate()
        tally.add(take_step(images, labels), run.step)
        run.step_in_epoch += 1
        now = time.monotonic()
        tally.seconds += now - clock
        clock = now
        if progress.wants_step():
            progress.step(run.epoch + 1, run.step, tally.rate(), *tally.read())
        if stop_requested():
            run.save()
            raise Stopped(f"stopped at step {run.step:,}; go on with: flatnext train --resume {run.folder.path}")
        if now - saved >= CHECKPOINT_SECONDS:
            run.save()
            saved = clock = time.monotonic()


def _finish_epoch(run: Run, judge: Judge) -> dict[str, Any]:
    """Evaluate, keep the weights if they are the best so far, write a checkpoint; return the line of metrics."""
    began = time.monotonic()
    loss, accuracy = run.tally.read()
    run.tally.seconds += time.monotonic() - began  # a GPU ends its steps only when it is asked for their sums
    began = time.monotonic()
    validation = judge.validation()
    test = judge.test() if run.config.test_curve else None
    line: dict[str, Any] = {
        "epoch": run.epoch + 1,
        "step": run.step,
        "learning_rate": run.optimizer.param_groups[0]["lr"],
        "train_loss": loss,
        "train_accuracy": accuracy,
        "train_seconds": run.tally.seconds,
        "evaluation_seconds": time.monotonic() - began,
        "images_per_second": run.tally.rate(),
    }
    for split, scores in (("validation", validation), ("test", test)):
        content = scores.to_json() if scores else {"loss": None, "accuracy": None}
        line |= {f"{split}_loss": content["loss"], f"{split}_accuracy": content["accuracy"]}
    run.train_seconds += run.tally.seconds
    run.epoch, run.step_in_epoch, run.tally = run.epoch + 1, 0, Tally(run.device)
    if validation is not None and better(validation, run.best and run.best["validation"]):
        run.best = {"epoch": run.epoch, "validation": validation.to_json(confusion=False)}
        run.save_best()
    run.folder.add_metrics(line)
    run.save()
    return line


def _failure(run: Run, error: NonFiniteLossError) -> InputError:
    """Note that the loss is not finite; return the error that says what to try."""
    message = (
        f"the loss is not finite at step {error.step} (epoch {error.step // len(run.loader) + 1}): lower --lr, give a "
        f"longer --warmup-epochs or a --clip-norm; the last good checkpoint, if there is one, is in {run.folder.path}"
    )
    run.folder.write_failure({"error": message, "epoch": run.epoch, "step": error.step})
    return InputError(message)


def _finish(run: Run, judge: Judge) -> dict[str, Any]:
    """Read the test set with the last weights and with the best; write and return the result."""
    scores, mistakes = judge.final()
    result: dict[str, Any] = {
        "last": {"epoch": run.epoch, **scores},
        "best": run.best and {**run.best, "test": scores["test"]},
        "mistakes": mistakes,
        "train_seconds": run.train_seconds,
        "images_per_second": len(run.partition.train) * run.epoch / max(run.train_seconds, 1e-9),
    }
    if run.best is not None and run.best["epoch"] != run.epoch:
        run.load_best()
        result["best"]["test"] = judge.test().to_json()
    run.folder.write_result(result)
    remove_states(run.folder.path)
    return result
