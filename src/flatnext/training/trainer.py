"""Taking a run from where it is to its end."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from flatnext.config import depends_on_length, differences, recipe_name
from flatnext.config.setting import show
from flatnext.device import autocast, dtype
from flatnext.progress import Display, Task
from flatnext.runs.records import CheckpointScores, Epoch, Result
from flatnext.runs.scores import Scores
from flatnext.training.checkpoint import keep_checkpoint, kept_checkpoints, remove_kept, remove_previous, remove_state
from flatnext.training.class_weights import class_weights
from flatnext.training.divergence import failed, prepare_rollback, require_good, roll_back
from flatnext.training.evaluator import Evaluator, better
from flatnext.training.graph import CudaRecorder, GraphStep, recordable
from flatnext.training.metric_sums import NonFiniteLossError
from flatnext.training.optimizer import fuse
from flatnext.training.options import Options
from flatnext.training.run_state import BestEpoch, RunState
from flatnext.training.step import Step, TakeStep
from flatnext.training.stop import Interrupted, Stopped, StopRequest, stop_on_signal
from flatnext.training.trackers import tracked
from flatnext.words import counted

CHECKPOINT_SECONDS = 300.0
"""Between two checkpoints within an epoch; the end of an epoch always writes one."""

CHECK_STEPS = 50
"""Between two checks that the loss is finite, each of which waits for a GPU."""


def make_step(run: RunState, interrupt: Callable[[], object] | None = None) -> TakeStep:
    """Return what computes and takes a step of the run; make it once, when the run is loaded: it may record steps.

    `interrupt` is called within a step, where that is not one of several processes, which wait for each other.
    """
    fuse(run.optimizer)
    step = Step(
        model=run.model,
        method=run.method,
        autocast=functools.partial(autocast, run.precision, run.device),
        label_smoothing=run.config.label_smoothing,
        class_weights=class_weights(run.config, run.partition, run.device, dtype(run.precision)),
        clip_norm=run.config.optimizer.clip_norm,
        grad_accum_steps=run.config.grad_accum_steps,
        processes=run.processes,
    )
    if run.config.cuda_graph and recordable(step, run.device):
        return GraphStep(step, CudaRecorder(run.device))
    return replace(step, interrupt=interrupt) if run.processes.count == 1 else step


class Trainer:
    """Trains a loaded run, evaluates it after its epochs, and writes its files."""

    def __init__(self, run: RunState, options: Options) -> None:
        self.run, self.options = run, options
        self.display = options.display or Display()
        self.track = options.track if run.processes.first else ()
        self.title = f"{recipe_name(run.config)} seed {run.config.seed}"
        self.stop = StopRequest()
        self.evaluator = Evaluator(
            predictor=run.predictor(), partition=run.partition, processes=run.processes, interrupt=self.stop.check
        )
        self.take_step = make_step(run, self.stop.check)

    def fit(self) -> Result:
        """Train to the last epoch, and return and write the result. Raises what ended the run before: see `train`."""
        with self._stoppable():
            self._train_epochs()
            return self._finish()

    def train_epochs(self) -> tuple[Epoch, ...]:
        """Train to the last epoch, and return the metrics of the epochs; the run has no result yet."""
        with self._stoppable():
            return self._train_epochs()

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Let a signal end the block by `Stopped`: the first with a checkpoint, a second at once."""
        try:
            with stop_on_signal(self.stop):
                yield
        except Interrupted as error:
            raise self._stopped() from error
        except Stopped:
            raise
        except KeyboardInterrupt as error:
            way = self.run.folder.resume_command
            raise Stopped(f"ended at once; go on from the last checkpoint, if there is one, with: {way}") from error

    def _train_epochs(self) -> tuple[Epoch, ...]:
        run = self.run
        if changed := differences(run.config):
            texts = [f"{name} {show(value)}" for name, value in changed.items()]
            self.display.say(f"{self.title}: not as in the recipe: {', '.join(texts)}")
        if run.started_from:
            self.display.say(f"{self.title}: starts from {run.started_from.weights}: {run.started_from.taken}")
        if run.step:
            self.display.say(f"{self.title}: goes on after step {run.step:,} of {run.total_steps:,}")
        if run.epoch and not run.step_in_epoch:
            self._keep()  # a kill may have come between the checkpoint and this
        if self._rolls_back and run.epoch < run.config.epochs and prepare_rollback(run):
            self._tell_of_checkpoint()
        with (
            tracked(self.track, run.folder, run.config) as trackers,
            self.display.task(self.title, run.work(run.total_steps), run.work(run.step)) as task,
        ):
            while run.epoch < run.config.epochs:
                try:
                    epoch = self._one_epoch(task)
                except NonFiniteLossError as error:
                    words = roll_back(run, error.step) if self._rolls_back else None
                    if words is None:
                        raise failed(run, error.step) from error
                    self.display.say(f"{self.title}: {words}")
                else:
                    for tracker in trackers:
                        tracker.add(epoch)
                    self.display.say(f"{self.title}: {describe(epoch)}, {task.left(run.work(run.step))}")
                self._tell_of_checkpoint()
                if run.begun and run.processes.any([self.stop()])[0]:
                    raise self._stopped()
        return run.folder.epochs()

    def _one_epoch(self, task: Task) -> Epoch:
        """Take the steps of an epoch that are left, and evaluate; where either is left undone, write a checkpoint."""
        try:
            self.train_epoch(task)
            return self._finish_epoch()
        except Interrupted:
            if self.run.begun:
                self._save()
            raise

    def train_epoch(self, task: Task, *, checkpoints: bool = True, until: int | None = None) -> None:
        """Take the steps of the current epoch that are left, `until` the run has had so many.

        Without `checkpoints` nothing is written.
        """
        run = self.run
        run.train_mode()
        clock = saved = time.monotonic()
        for images, labels in run.loader.epoch(run.epoch, run.step_in_epoch):
            run.advance(self.take_step, images, labels)
            now = time.monotonic()
            run.metrics.seconds += now - clock
            clock = now
            if run.step % CHECK_STEPS == 0:
                run.metrics.check(run.processes)
            if task.due():
                self._show(task)
            if run.step == until:
                return
            if not checkpoints:
                continue
            stop, save = run.processes.any([self.stop(), now - saved >= CHECKPOINT_SECONDS])
            if stop or save:
                self._save()
                saved = clock = time.monotonic()
            if stop:
                raise self._stopped()

    def _save(self) -> None:
        self.run.save()
        self._tell_of_checkpoint()

    def _tell_of_checkpoint(self) -> None:
        if self.options.after_checkpoint and self.run.processes.first:
            self.options.after_checkpoint()

    @property
    def _rolls_back(self) -> bool:
        return self.options.on_divergence == "rollback"

    def _show(self, task: Task) -> None:
        run = self.run
        loss, accuracy, rate = run.metrics.local_means()
        position = f"epoch {run.epoch + 1}, step {run.step:,} of {run.total_steps:,}"
        text = f"{position}, {rate:,.0f} images/s, loss {loss:.3f}, accuracy {accuracy:.1%}"
        task(run.work(run.step), run.work(run.total_steps), text)

    def _finish_epoch(self) -> Epoch:
        """Evaluate, keep the weights if they are the best so far, write a checkpoint; return the epoch's metrics."""
        run = self.run
        began = time.monotonic()
        run.require_finite()
        run.metrics.seconds += time.monotonic() - began  # a GPU ends its steps only when it is asked for something
        epoch, validation = self.measure()
        if self._rolls_back:
            require_good(run, epoch)
        run.require_claim()
        run.finish_epoch()
        is_best = validation is not None and better(validation, run.best.validation if run.best else None)
        if validation is not None and is_best:
            run.best = BestEpoch(epoch=run.epoch, validation=validation)
        if run.processes.first:
            run.folder.add_epoch(epoch)
        run.save()
        if is_best:
            run.save_best()
        self._keep()
        return epoch

    def _keep(self) -> None:
        """Keep the checkpoint of the end of an epoch as long as it is asked for, or may be gone back to."""
        run, keep = self.run, self.options.keep_checkpoints or 0
        if not run.processes.first:
            return
        count = None if keep == "all" else max(keep, 1) if self._rolls_back else keep
        kept = keep_checkpoint(run.folder.path, run.epoch, count)
        if kept and run.epoch == 1 and keep:
            size = sum(file.stat().st_size for file in kept.parent.iterdir()) / len(kept_checkpoints(run.folder.path))
            number = run.config.epochs if keep == "all" else min(keep, run.config.epochs)
            self.display.say(
                f"{self.title}: keeps the checkpoints of {counted(number, 'epoch')}, {size / 1e6:,.1f} MB each, "
                f"{number * size / 1e6:,.1f} MB in all"
            )

    def measure(self) -> tuple[Epoch, Scores | None]:
        """Return the metrics of the epoch whose steps are all taken, and the scores on the validation split."""
        run = self.run
        loss, accuracy, rate = run.metrics.means(run.processes)
        began = time.monotonic()
        due = (run.epoch + 1) % run.config.evaluate_every == 0 or run.epoch + 1 == run.config.epochs
        validation = self.evaluator.validation() if due else None
        test = self.evaluator.test() if due and run.config.test_curve else None
        epoch = Epoch(
            epoch=run.epoch + 1,
            step=run.step,
            learning_rate=run.optimizer.param_groups[0]["lr"],
            train_loss=loss,
            train_accuracy=accuracy,
            validation_loss=validation.loss if validation else None,
            validation_accuracy=validation.accuracy if validation else None,
            validation_balanced_accuracy=validation.balanced_accuracy if validation else None,
            test_loss=test.loss if test else None,
            test_accuracy=test.accuracy if test else None,
            train_seconds=run.metrics.seconds,
            evaluation_seconds=time.monotonic() - began,
            images_per_second=rate,
        )
        return epoch, validation

    def _finish(self) -> Result:
        """Evaluate the last weights and the best; write and return the result."""
        run = self.run
        last, mistakes, conformal = self.evaluator.final(run.epoch)
        run.add_conformal("last", conformal)
        best = None
        if run.best is not None:
            test = last.test
            if run.best.epoch != run.epoch:
                run.load_best()
                test = self.evaluator.test()
            run.add_conformal("best", self.evaluator.conformal_of_best())
            best = CheckpointScores(epoch=run.best.epoch, validation=run.best.validation, test=test)
        result = Result(
            last=last,
            best=best,
            mistakes=mistakes,
            train_seconds=run.train_seconds,
            images_per_second=len(run.partition.train) * run.epoch / max(run.train_seconds, 1e-9),
        )
        if run.processes.first:
            # Before the result, so that a run that is killed here and resumed does it again.
            remove_previous(run.folder.path)
            if self._rolls_back and self.options.keep_checkpoints != "all":
                remove_kept(run.folder.path, self.options.keep_checkpoints or 0)
            run.folder.write_result(result)
            if depends_on_length(run.config):  # else the run can be made longer as if it had been planned so
                remove_state(run.folder.path)
        return result

    def _stopped(self) -> Stopped:
        if not self.run.begun:  # a new run leaves nothing
            return Stopped("stopped before its first step was done")
        return Stopped(f"stopped at step {self.run.step:,}; go on with: {self.run.folder.resume_command}")


def describe(epoch: Epoch) -> str:
    """Return an epoch's metrics as a line of text."""
    accuracies = {"train": epoch.train_accuracy, "validation": epoch.validation_accuracy, "test": epoch.test_accuracy}
    parts = [f"epoch {epoch.epoch}", f"{epoch.images_per_second:,.0f} images/s"]
    balanced = epoch.validation_balanced_accuracy  # of uneven classes: it chooses the best epoch
    notes = {"validation": "" if balanced is None else f" (balanced {balanced:.2%})"}
    for split, accuracy in accuracies.items():
        parts += [f"{split} {accuracy:.2%}{notes.get(split, '')}"] if accuracy is not None else []
    return ", ".join([*parts, f"loss {epoch.train_loss:.3f}"])
