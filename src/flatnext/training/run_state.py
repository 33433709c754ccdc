"""The state of a run under way, and its checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from flatnext import data, models
from flatnext.config import Config
from flatnext.device import dtype, keep_digits, place, resolve_precision
from flatnext.errors import InputError, warn_of_fallback
from flatnext.evaluation import Predictor
from flatnext.methods import bind
from flatnext.models.transfer import freeze
from flatnext.models.weights import assign_weights
from flatnext.processes import ALONE, Processes
from flatnext.runs.claim import Claim
from flatnext.runs.conformal import Conformal
from flatnext.runs.fingerprint import DataFingerprint, change
from flatnext.runs.folder import RunFolder
from flatnext.runs.records import Rollback, StartingWeights
from flatnext.runs.scores import Scores
from flatnext.schema import dump, parse
from flatnext.training.average import WeightAverage
from flatnext.training.checkpoint import Checkpoint, read_metadata, save_checkpoint, save_weights, state_of_finished
from flatnext.training.inputs import check_fit
from flatnext.training.metric_sums import MetricSums, NonFiniteLossError
from flatnext.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from flatnext.training.starting import begin
from flatnext.training.step import TakeStep


@dataclass(frozen=True, kw_only=True)
class BestEpoch:
    """The epoch with the best scores on the validation split so far."""

    epoch: int
    validation: Scores


class RunState:
    """Model, optimizer, loader, and how far they have come: a function of the config and the steps done.

    `evaluated` is the model that is evaluated and stored: `model`, or with `ema` the average of its weights.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        partition: data.Partition,
        device: torch.device,
        processes: Processes = ALONE,
    ) -> None:
        self.config, self.folder, self.partition = config, folder, partition
        self.device, self.processes = device, processes
        self.precision = processes.on_first(lambda: resolve_precision(config.precision, device))
        check_fit(config, partition, processes.count)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)  # torch.manual_seed would seed the GPUs as well
            self.model = models.build(config.model, len(partition.classes), partition.train.images.shape[1])
        self.frozen_norms = freeze(self.model, config.start.freeze)
        self.started_from: StartingWeights | None = None
        self.knows_held_out = False  # as `Origin` has it
        place(self.model, device, self.precision, channels_last=config.channels_last)
        self.average = WeightAverage(self.model, config.ema) if config.ema else None
        self.evaluated = self.average.model if self.average else self.model
        self.optimizer = make_optimizer(self.model, config.optimizer, config.start.backbone_lr_factor)
        self.loader = data.Loader(
            partition.train,
            config.data,
            normalization=partition.normalization,
            batch_size=config.batch_size,
            seed=config.seed,
            classes=len(partition.classes),
            device=device,
            dtype=dtype(self.precision),
            channels_last=config.channels_last,
            rank=processes.rank,
            ranks=processes.count,
        )
        self.method = bind(
            config.method,
            self.model,
            self.optimizer,
            total_steps=self.total_steps,
            seed=config.seed,
            normalization=partition.normalization,
        )
        self.has_optimizer_state = True  # or none is needed
        self.epoch = 0  # epochs finished
        self.step_in_epoch = 0
        self.metrics = MetricSums(device)
        self.best: BestEpoch | None = None
        self.train_seconds = 0.0
        self.rollbacks: tuple[Rollback, ...] = ()
        self.claim: Claim | None = None  # on the folder, in the process that writes

    @property
    def step(self) -> int:
        """Steps done since the start of the run."""
        return self.epoch * len(self.loader) + self.step_in_epoch

    @property
    def begun(self) -> bool:
        """Whether there is something to keep: a step, or a return to the start, which is in the checkpoint."""
        return self.step > 0 or bool(self.rollbacks)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.config.epochs * len(self.loader)

    @cached_property
    def fingerprint(self) -> DataFingerprint:
        """The fingerprint of the data."""
        return data.fingerprint(self.partition)

    def work(self, steps: int) -> float:
        """Return how much work the first steps of the run are: in proportion to the pixels of their images."""
        epochs, rest = divmod(steps, len(self.loader))
        pixels = sum(self.loader.image_size(epoch) ** 2 for epoch in range(epochs))
        return float(pixels * len(self.loader) + rest * self.loader.image_size(epochs) ** 2)

    def predictor(self) -> Predictor:
        """Return the predictor of the model that is evaluated."""
        return Predictor(
            model=self.evaluated,
            classes=tuple(self.partition.classes),
            normalization=self.partition.normalization,
            device=self.device,
            precision=self.precision,
            channels_last=self.config.channels_last,
        )

    def advance(self, take_step: TakeStep, images: Tensor, labels: Tensor) -> None:
        """Take the next step on a batch of the loader, at its learning rate, and add it to metrics and average."""
        self._set_learning_rate()
        stats = take_step(images, labels, self.step, self.loader.batch_count(self.step_in_epoch))
        self.metrics.add(stats, self.step)
        self.step_in_epoch += 1
        self.update_average()

    def _set_learning_rate(self) -> None:
        config = self.config
        peak, epochs = config.optimizer.learning_rate, config.epochs
        rate = learning_rate(peak, config.schedule, self.step, len(self.loader), epochs)
        set_learning_rate(self.optimizer, rate * self.rate_factor)

    @property
    def rate_factor(self) -> float:
        """What the learning rate is multiplied by, since the loss was not finite before."""
        return self.rollbacks[-1].rate_factor if self.rollbacks else 1.0

    def train_mode(self) -> None:
        """Put the model into training mode, but for the batch norms of frozen parts."""
        self.model.train()
        for norm in self.frozen_norms:
            norm.eval()

    def update_average(self) -> None:
        """Add the weights after a step to the average, which begins anew where the image size has changed."""
        if self.average:
            began = self.loader.first_epoch_at_size(self.epoch) * len(self.loader)
            self.average.update(self.step - 1 - began)

    def finish_epoch(self) -> None:
        """Count the epoch as done, and begin the metrics of the next one."""
        self.train_seconds += self.metrics.seconds
        self.epoch, self.step_in_epoch, self.metrics = self.epoch + 1, 0, MetricSums(self.device)

    def begin(self) -> None:
        """Begin a new run, from trained weights if the config says so."""
        if self.config.schedule.schedule_begins:
            raise InputError(
                f"schedule_begins is {self.config.schedule.schedule_begins}, as in a run that was made longer: for "
                "a new run set it to 0"
            )
        self.started_from = begin(self.model, self.config, self.fingerprint)
        self.knows_held_out = self.started_from is not None and self.started_from.may_know_held_out
        if self.average and self.started_from:
            self.average.update(0)

    def load(self, checkpoint: Checkpoint, before: Config | None = None) -> None:
        """Go on from a checkpoint of the folder.

        `before` is the config of a run that is made longer: its checkpoint has that config, or this one already.
        """
        checkpoint.require_config(*filter(None, (before, self.config)))
        state = checkpoint.state or state_of_finished(self.folder, checkpoint)
        self.has_optimizer_state = checkpoint.state is not None
        self.processes.on_first(lambda: self._require_same_data(state))
        self.restore(checkpoint, state)
        if self.best is not None and self.best.epoch == self.epoch and self.step_in_epoch == 0:
            self.save_best()  # a kill may have come between the checkpoint and this file
        elif self.best is not None and not self.processes.on_first(self._holds_best):
            warn_of_fallback(
                f"{self.folder.path}: best.safetensors is not of epoch {self.best.epoch}, the best so far: "
                "the best of the epochs from here on is kept"
            )
            self.best = None

    def restore(self, checkpoint: Checkpoint, state: dict[str, Any]) -> None:
        """Put weights, optimizer and position where they were. `InputError`: the checkpoint is of another model."""
        assign_weights(self.evaluated, checkpoint.weights, checkpoint.path)
        self.knows_held_out = checkpoint.origin is not None and checkpoint.origin.knows_held_out
        self.metrics = MetricSums(self.device)
        try:
            if self.average:
                self.model.load_state_dict(state["weights"])
            if state["optimizer"] is not None:
                self.optimizer.load_state_dict(state["optimizer"])
            self.precision = state["precision"]
            keep_digits(self.precision)  # another than the model was placed in, where "auto" is another here
            self.epoch, self.step_in_epoch = state["epoch"], state["step_in_epoch"]
            self.best = parse(BestEpoch | None, state["best"], "best", unknown="ignore")
            self.train_seconds = state["train_seconds"]
            self.rollbacks = parse(tuple[Rollback, ...], state.get("rollbacks", ()), "rollbacks", unknown="ignore")
            sums = state["metric_sums"] if "metric_sums" in state else state["tally"]  # as version 0.1.0 called them
            if sums is not None:
                self.metrics.load_state_dict(sums, self.processes)
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise InputError(f"the state of the run in {self.folder.path} is damaged: start the run anew") from error

    def _require_same_data(self, state: dict[str, Any]) -> None:
        """Raise `InputError` if the run began with other images, labels, classes or another division than it has."""
        before = parse(DataFingerprint | None, state.get("data"), "data", unknown="ignore")
        if before is None and self.config.data.dataset == "folder":
            words: str | None = "version 0.1.0 divided a folder in another way"
        else:
            words = change(before, self.fingerprint) if before else None
        if words:
            raise InputError(
                f"the data are not those that the run in {self.folder.path} began with ({words}): restore them, or "
                "start a run anew with another --output"
            )

    def require_finite(self) -> None:
        """Raise `NonFiniteLossError` if the loss of a step of the epoch, a weight or a statistic is not finite."""
        self.metrics.check(self.processes)
        tensors = [t for t in self.model.state_dict().values() if t.is_floating_point()]
        if not all(bool(torch.isfinite(t).all()) for t in tensors):
            raise NonFiniteLossError(max(self.step - 1, 0))

    def save(self) -> None:
        """Write a checkpoint; if a loss or weight is not finite, raise `NonFiniteLossError` and keep the last one."""
        self.require_finite()
        self.require_claim()
        state: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "precision": self.precision,
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "best": dump(self.best),
            "train_seconds": self.train_seconds,
            "rollbacks": dump(self.rollbacks),
            "metric_sums": self.metrics.state_dict(self.processes),
            "data": dump(self.fingerprint),
        }
        if self.average:
            state["weights"] = self.model.state_dict()
        if self.processes.first:
            save_checkpoint(self.folder.path, self.evaluated, state, self.step, self._metadata())

    def require_claim(self) -> None:
        """Raise `InputError` if another process has taken over the folder."""
        if self.claim:
            self.claim.require()

    def save_best(self) -> None:
        """Write `best.safetensors`."""
        if self.processes.first:
            metadata = {**self._metadata(), "checkpoint": "best"}  # also where the file has another name
            save_weights(self.folder.path / "best.safetensors", self.evaluated, metadata)

    def add_conformal(self, checkpoint: str, conformal: Conformal | None) -> None:
        """Add the calibration of a finished checkpoint, `last` or `best`, to its file; None adds nothing.

        Nor does one by images on which the weights that the run started from may have been trained.
        """
        if self.processes.first and conformal is not None:
            start = self.folder.environment().started_from
            if start and start.may_know_held_out:
                return
            path = self.folder.path / f"{checkpoint}.safetensors"
            models.add_metadata(path, {"conformal": json.dumps(dump(conformal))})

    def _holds_best(self) -> bool:
        """Return whether `best.safetensors` is of the best epoch: a later one may have written it and been undone."""
        assert self.best is not None
        metadata, step = read_metadata(self.folder.path / "best.safetensors"), str(self.best.epoch * len(self.loader))
        return metadata is not None and metadata.get("step", step) == step

    def load_best(self) -> None:
        """Put the weights of `best.safetensors` into the model that is evaluated."""
        models.load_weights(self.folder.path / "best.safetensors", self.evaluated)

    def _metadata(self) -> dict[str, str]:
        """Return what the weights alone need to be used."""
        return {
            "format": "pt",
            "config": json.dumps(dump(self.config)),
            "classes": json.dumps(self.partition.classes),
            "mean": json.dumps(self.partition.normalization.mean),
            "std": json.dumps(self.partition.normalization.std),
            "image_size": str(self.partition.train.images.shape[-1]),
            "step": str(self.step),
            "data": json.dumps(dump(self.fingerprint)),
            **({"knows_held_out": "true"} if self.knows_held_out else {}),
        }
