"""A run from its config to its result."""

from __future__ import annotations

import contextlib
import functools
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from flatnext import data, models
from flatnext.config import Config
from flatnext.device import autocast, keep_memory, resolve_device
from flatnext.errors import InputError
from flatnext.processes import join_processes, launch, restarted
from flatnext.training.checkpoint import remove_states
from flatnext.training.events import EventLog
from flatnext.training.graph import CudaRecorder, GraphStep, recordable
from flatnext.training.judge import Judge, better
from flatnext.training.optimizer import fuse
from flatnext.training.progress import Silent
from flatnext.training.run import Run
from flatnext.training.run_folder import RunFolder, environment
from flatnext.training.step import Step, TakeStep
from flatnext.training.stop import Stopped, stop_on_signal
from flatnext.training.tally import NonFiniteLossError, Tally

CHECKPOINT_SECONDS = 300.0  # within an epoch; the end of an epoch always writes one
CHECK_STEPS = 50  # between looks at whether the loss is finite, for which a GPU must be waited for


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
        config: what to train; see `flatnext.config.recipes`.
        output: the run folder. It may exist only if `resume` or `overwrite` is given.
        data_dir: where the data set lies, or is downloaded to.
        device: `auto`, `cpu`, `cuda` …
        download: whether a missing data set may be fetched.
        resume: go on from the folder's last checkpoint; on a CPU the weights end as if it had never stopped.
        overwrite: delete the run that the folder holds.
        progress: a display; none by default.
        command: what to note as the command of this session; by default the process's own.

    Started by torchrun, the processes train the run together, and one of them writes. They must all see the folders.

    Raises:
        InputError: anything that the user can mend, among it a loss that is not finite.
        Stopped: Ctrl-C or a termination signal came; a checkpoint has been written.
    """
    folder = RunFolder(Path(output))
    with join_processes(device) as (processes, own_device):
        progress = progress if progress and processes.first else Silent()
        # After a restart the run that this launch began goes on; another one in the folder is none of its business.
        again = processes.on_first(lambda: restarted() and folder.owner() == launch())
        resume, overwrite = resume or again, overwrite and not again
        processes.on_first(lambda: folder.check(config, resume=resume, overwrite=overwrite))
        result = processes.on_first(lambda: folder.read_result() if folder.finished() and not overwrite else None)
        if result is not None:
            return result
        where = resolve_device(own_device)  # before anything is downloaded
        partition = processes.first_then_others(
            lambda: check_data(config, data_dir, download=download, progress=progress)
        )
        keep_memory()
        run = Run(config, folder, partition, where, processes)
        processes.on_first(lambda: folder.create(config, overwrite=overwrite))
        with contextlib.ExitStack() as stack:
            processes.on_first(lambda: stack.enter_context(folder.locked(launch())))
            return _train(run, progress, command or shlex.join(sys.orig_argv), Path(data_dir))


def check_data(
    config: Config, data_dir: Path | str, *, download: bool = True, progress: Silent | None = None
) -> data.Partition:
    """Load and divide the data of a run; `InputError` if that cannot be done."""
    dataset = data.load(
        config.data.dataset,
        Path(data_dir),
        image_size=config.data.image_size,
        download=download,
        progress=progress is not None and progress.speaks,
    )
    return data.partition(dataset, config.data)


def _train(run: Run, progress: Silent, command: str, data_dir: Path) -> dict[str, Any]:
    """Take the run up where its folder has it, and bring it to its end."""
    run.load()
    judge = Judge(
        model=run.scored,
        partition=run.partition,
        device=run.device,
        precision=run.precision,
        channels_last=run.config.channels_last,
        processes=run.processes,
    )
    if run.processes.first:
        run.folder.keep_metrics(run.epoch)
        parameters = models.parameter_count(run.model)
        facts = environment(run.device, run.precision, parameters, run.partition, run.processes.count)
        run.folder.add_session(facts | {"data_dir": str(data_dir.absolute())}, command, run.step)
    _run_epochs(run, judge, progress)
    return _finish(run, judge)


def _run_epochs(run: Run, judge: Judge, progress: Silent) -> None:
    """Train to the last epoch, or raise what ended the run before."""
    events = EventLog(run.folder.path / "tensorboard", run.folder.read_metrics()) if run.processes.first else None
    progress.start(f"{run.config.recipe} seed {run.config.seed}", run.total_steps, run.step, run.work)
    take_step = make_step(run)
    with stop_on_signal() as stop_requested:
        try:
            while run.epoch < run.config.epochs:
                _train_epoch(run, take_step, progress, stop_requested)
                line = _finish_epoch(run, judge)
                if events:
                    events.add(line)
                progress.epoch(line)
                if run.processes.any([stop_requested()])[0]:
                    raise _stopped(run)
        except NonFiniteLossError as error:
            raise _failure(run, error) from error
        finally:
            progress.close()
            if events:
                events.close()


def make_step(run: Run) -> TakeStep:
    """Return what computes and takes a step of the run; make it once, when the run is loaded: it may record steps."""
    fuse(run.optimizer)
    step = Step(
        model=run.model,
        method=run.method,
        autocast=functools.partial(autocast, run.precision, run.device),
        label_smoothing=run.config.label_smoothing,
        clip_norm=run.config.optimizer.clip_norm,
        grad_accum_steps=run.config.grad_accum_steps,
        processes=run.processes,
    )
    return GraphStep(step, CudaRecorder(run.device)) if run.config.cuda_graph and recordable(step, run.device) else step


def advance(run: Run, take_step: TakeStep, images: Tensor, labels: Tensor) -> None:
    """Take the run's next step on a batch of its loader."""
    run.set_learning_rate()
    run.tally.add(take_step(images, labels, run.step, run.loader.batch_count(run.step_in_epoch)), run.step)
    run.step_in_epoch += 1
    run.update_average()


def _train_epoch(run: Run, take_step: TakeStep, progress: Silent, stop_requested: Callable[[], bool]) -> None:
    """Take the steps of the current epoch that are left."""
    run.model.train()
    tally = run.tally
    clock = saved = time.monotonic()
    for images, labels in run.loader.epoch(run.epoch, run.step_in_epoch):
        advance(run, take_step, images, labels)
        now = time.monotonic()
        tally.seconds += now - clock
        clock = now
        if run.step % CHECK_STEPS == 0:
            tally.check(run.processes)
        if progress.wants_step():
            progress.step(run.epoch + 1, run.step, *tally.own())
        stop, save = run.processes.any([stop_requested(), now - saved >= CHECKPOINT_SECONDS])
        if stop or save:
            run.save()
            saved = clock = time.monotonic()
        if stop:
            raise _stopped(run)


def _stopped(run: Run) -> Stopped:
    return Stopped(f"stopped at step {run.step:,}; go on with: flatnext train --resume {run.folder.path}")


def _finish_epoch(run: Run, judge: Judge) -> dict[str, Any]:
    """Evaluate, keep the weights if they are the best so far, write a checkpoint; return the line of metrics."""
    began = time.monotonic()
    run.require_finite()
    run.tally.seconds += time.monotonic() - began  # a GPU ends its steps only when it is asked for something
    loss, accuracy, rate = run.tally.total(run.processes)
    began = time.monotonic()
    due = (run.epoch + 1) % run.config.evaluate_every == 0 or run.epoch + 1 == run.config.epochs
    validation = judge.validation() if due else None
    test = judge.test() if due and run.config.test_curve else None
    line: dict[str, Any] = {
        "epoch": run.epoch + 1,
        "step": run.step,
        "learning_rate": run.optimizer.param_groups[0]["lr"],
        "train_loss": loss,
        "train_accuracy": accuracy,
        "train_seconds": run.tally.seconds,
        "evaluation_seconds": time.monotonic() - began,
        "images_per_second": rate,
    }
    for split, scores in (("validation", validation), ("test", test)):
        content = scores.to_json() if scores else {"loss": None, "accuracy": None}
        line |= {f"{split}_loss": content["loss"], f"{split}_accuracy": content["accuracy"]}
    run.train_seconds += run.tally.seconds
    run.epoch, run.step_in_epoch, run.tally = run.epoch + 1, 0, Tally(run.device)
    is_best = validation is not None and better(validation, run.best and run.best["validation"])
    if validation is not None and is_best:
        run.best = {"epoch": run.epoch, "validation": validation.to_json(confusion=False)}
    if run.processes.first:
        run.folder.add_metrics(line)
    run.save()
    if is_best:
        run.save_best()
    return line


def _failure(run: Run, error: NonFiniteLossError) -> InputError:
    """Note that the loss is not finite; return the error that says what to try."""
    message = (
        f"the loss is not finite at step {error.step} (epoch {error.step // len(run.loader) + 1}): lower --lr, give a "
        f"longer --warmup-epochs or a --clip-norm; the last good checkpoint, if there is one, is in {run.folder.path}"
    )
    if run.processes.first:
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
    if run.processes.first:
        run.folder.write_result(result)
        remove_states(run.folder.path)
    return result
