"""A run from its config to its result."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from flatnext import data, evaluation, methods, models
from flatnext.config import Config
from flatnext.device import autocast, dtype, resolve_device, resolve_precision
from flatnext.errors import InputError
from flatnext.training.checkpoint import load_checkpoint, remove_states, save_checkpoint, save_weights
from flatnext.training.events import EventLog
from flatnext.training.optimizer import learning_rate, make_optimizer
from flatnext.training.progress import Silent
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
    folder = RunFolder(Path(output))
    folder.check(config, resume=resume, overwrite=overwrite)
    if folder.finished() and not overwrite:
        return folder.read_result()
    dataset = data.load(
        config.data.dataset,
        Path(data_dir),
        image_size=config.data.image_size,
        download=download,
        progress=progress is not None,
    )
    run = _Run(config, folder, data.partition(dataset, config.data), resolve_device(device), progress or Silent())
    folder.create(config, overwrite=overwrite)
    run.start(command or " ".join(["flatnext", *sys.argv[1:]]))
    with stop_on_signal() as stop_requested:
        try:
            while run.epoch < config.epochs:
                run.train_epoch(stop_requested)
                run.finish_epoch()
        except NonFiniteLossError as error:
            raise run.failure(error) from error
        finally:
            run.close()
    return run.finish()


class _Run:
    """The state of a run under way."""

    def __init__(
        self, config: Config, folder: RunFolder, partition: data.Partition, device: torch.device, progress: Silent
    ) -> None:
        self.config, self.folder, self.partition, self.device, self.progress = (
            config,
            folder,
            partition,
            device,
            progress,
        )
        self.precision = resolve_precision(config.precision, device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = models.build(config.model, len(partition.classes))
        memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
        self.model = model.to(device=device, dtype=dtype(self.precision), memory_format=memory_format)
        self.optimizer = make_optimizer(self.model, config.optimizer)
        self.loader = data.Loader(
            partition.train,
            batch_size=config.batch_size,
            mean=partition.mean,
            std=partition.std,
            seed=config.seed,
            crop_padding=config.data.crop_padding,
            flip=config.data.flip,
            cutout=config.data.cutout,
            device=device,
            dtype=dtype(self.precision),
            channels_last=config.channels_last,
        )
        self.epoch = 0  # finished epochs
        self.step_in_epoch = 0
        self.tally = Tally(device)
        self.best: dict[str, Any] | None = None
        self.train_seconds = 0.0

    @property
    def step(self) -> int:
        """Steps done since the start of the run."""
        return self.epoch * len(self.loader) + self.step_in_epoch

    def start(self, command: str) -> None:
        """Take up the last checkpoint, if there is one, and note the session."""
        state = load_checkpoint(self.folder.path, self.model, self.device)
        if state is not None:
            self.optimizer.load_state_dict(state["optimizer"])
            self.precision = state["precision"]
            self.epoch, self.step_in_epoch = state["epoch"], state["step_in_epoch"]
            self.best, self.train_seconds = state["best"], state["train_seconds"]
            self.tally.load(state["tally"])
        self.folder.keep_metrics(self.epoch)
        facts = environment(self.device, self.precision, models.parameter_count(self.model), self.partition)
        self.folder.add_session(facts, command, self.step)
        self.events = EventLog(self.folder.path / "tensorboard", self.step)
        title = f"{self.config.recipe} seed {self.config.seed}"
        self.progress.start(title, self.config.epochs * len(self.loader), self.step)

    def train_epoch(self, stop_requested: Callable[[], bool]) -> None:
        """Run the steps of the current epoch that are left."""
        config = self.config
        take_step = Step(
            model=self.model,
            rule=methods.build(config.method),
            optimizer=self.optimizer,
            autocast=functools.partial(autocast, self.precision, self.device),
            label_smoothing=config.label_smoothing,
            clip_norm=config.optimizer.clip_norm,
        )
        self.model.train()
        clock = saved = time.monotonic()
        for images, labels in self.loader.epoch(self.epoch, self.step_in_epoch):
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate()
            self.tally.add(take_step(images, labels), self.step)
            self.step_in_epoch += 1
            now = time.monotonic()
            self.tally.seconds += now - clock
            clock = now
            if self.progress.wants_step():
                rate = self.tally.count / max(self.tally.seconds, 1e-9)
                self.progress.step(self.epoch + 1, self.step, rate, *self.tally.read())
            if stop_requested():
                self.save()
                raise Stopped(f"stopped at step {self.step:,}; go on with: flatnext train --resume {self.folder.path}")
            if now - saved >= CHECKPOINT_SECONDS:
                self.save()
                saved = clock = time.monotonic()

    def learning_rate(self) -> float:
        """Return the rate of the step to come."""
        config = self.config
        return learning_rate(
            config.optimizer.learning_rate, config.schedule, self.step, len(self.loader), config.epochs
        )

    def finish_epoch(self) -> None:
        """Evaluate, keep the weights if they are the best so far, write the epoch's metrics and a checkpoint."""
        began = time.monotonic()
        loss, accuracy = self.tally.read()
        self.tally.seconds += time.monotonic() - began  # a GPU ends its steps only when it is asked for their sums
        began = time.monotonic()
        validation, test = self.evaluate_epoch()
        line: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "train_loss": loss,
            "train_accuracy": accuracy,
            "train_seconds": self.tally.seconds,
            "evaluation_seconds": time.monotonic() - began,
            "images_per_second": self.tally.count / max(self.tally.seconds, 1e-9),
        }
        for split, scores in (("validation", validation), ("test", test)):
            content = scores.to_json() if scores else {"loss": None, "accuracy": None}
            line |= {f"{split}_loss": content["loss"], f"{split}_accuracy": content["accuracy"]}
        self.keep_if_best(validation)
        self.folder.add_metrics(line)
        self.events.add(line)
        self.progress.epoch(line)
        self.train_seconds += self.tally.seconds
        self.epoch, self.step_in_epoch, self.tally = self.epoch + 1, 0, Tally(self.device)
        self.save()

    def evaluate_epoch(self) -> tuple[evaluation.Scores | None, evaluation.Scores | None]:
        """Return the scores on the validation set, if there is one, and on the test set, if its curve is wanted."""
        validation = self.partition.validation
        return (
            evaluation.score(self.predict(validation), validation.labels) if validation is not None else None,
            evaluation.score(self.predict(self.partition.test), self.partition.test.labels)
            if self.config.test_curve
            else None,
        )

    def predict(self, split: data.Split) -> torch.Tensor:
        """Return the logits of a split's images."""
        return evaluation.predict(
            self.model,
            split,
            mean=self.partition.mean,
            std=self.partition.std,
            device=self.device,
            precision=self.precision,
            channels_last=self.config.channels_last,
        )

    def keep_if_best(self, validation: evaluation.Scores | None) -> None:
        """Write `best.safetensors` if validation accuracy is higher than before, or as high with a lower loss."""
        if validation is None:
            return
        key = (validation.accuracy, -validation.loss)
        if self.best is None or key > (self.best["validation"]["accuracy"], -self.best["validation"]["loss"]):
            self.best = {"epoch": self.epoch + 1, "validation": validation.to_json(confusion=False)}
            save_weights(self.folder.path / "best.safetensors", self.model, self.metadata(self.epoch + 1))

    def save(self) -> None:
        """Write a checkpoint of weights that are known to be finite."""
        self.tally.read()
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            raise NonFiniteLossError(self.step)
        state = {
            "optimizer": self.optimizer.state_dict(),
            "precision": self.precision,
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "best": self.best,
            "train_seconds": self.train_seconds,
            "tally": self.tally.state(),
        }
        save_checkpoint(self.folder.path, self.model, state, self.step, self.metadata(self.epoch))

    def metadata(self, epoch: int) -> dict[str, str]:
        """Return what somebody needs who finds the weights alone."""
        return {
            "format": "pt",
            "config": json.dumps(self.config.to_json()),
            "classes": json.dumps(self.partition.classes),
            "mean": json.dumps(self.partition.mean),
            "std": json.dumps(self.partition.std),
            "epoch": str(epoch),
            "step": str(self.step),
        }

    def failure(self, error: NonFiniteLossError) -> InputError:
        """Note that the loss is not finite; return the error that says what to try."""
        message = (
            f"the loss is not finite at step {error.step} (epoch {error.step // len(self.loader) + 1}): lower --lr, "
            "give a longer --warmup-epochs or a --clip-norm; "
            f"the last good checkpoint is in {self.folder.path}"
        )
        self.folder.write_failure({"error": message, "epoch": self.epoch, "step": error.step})
        return InputError(message)

    def finish(self) -> dict[str, Any]:
        """Read the test set with the last weights and with the best; write and return the result."""
        last_logits = self.predict(self.partition.test)
        last_epoch = self.config.epochs
        result: dict[str, Any] = {
            "last": {"epoch": last_epoch, "validation": None, "test": self.test_scores(last_logits)},
            "best": None,
            "mistakes": evaluation.surest_mistakes(last_logits, self.partition.test),
            "train_seconds": self.train_seconds,
            "images_per_second": len(self.partition.train) * last_epoch / max(self.train_seconds, 1e-9),
        }
        if self.partition.validation is not None and self.best is not None:
            scores = evaluation.score(self.predict(self.partition.validation), self.partition.validation.labels)
            result["last"]["validation"] = scores.to_json(confusion=False)
            if self.best["epoch"] != last_epoch:
                models.load_weights(self.folder.path / "best.safetensors", self.model)
                last_logits = self.predict(self.partition.test)
            result["best"] = {**self.best, "test": self.test_scores(last_logits)}
        self.folder.write_result(result)
        remove_states(self.folder.path)
        return result

    def test_scores(self, logits: torch.Tensor) -> dict[str, Any]:
        """Return the scores on the test set as JSON."""
        return evaluation.score(logits, self.partition.test.labels).to_json()

    def close(self) -> None:
        """End the display and the event log."""
        self.progress.close()
        self.events.close()
