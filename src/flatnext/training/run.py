"""The state of a run under way, and its checkpoint."""

from __future__ import annotations

import json
from typing import Any

import torch

from flatnext import data, models
from flatnext.config import Config
from flatnext.device import dtype, place, resolve_precision
from flatnext.errors import InputError
from flatnext.methods import BoundMethod
from flatnext.processes import ALONE, Processes
from flatnext.training.average import Average
from flatnext.training.checkpoint import load_checkpoint, save_checkpoint, save_weights
from flatnext.training.optimizer import learning_rate, make_optimizer
from flatnext.training.run_folder import RunFolder
from flatnext.training.tally import NonFiniteLossError, Tally


class Run:
    """Model, optimizer, loader, and how far they have come: a function of the config and the steps done.

    `scored` is the model that is evaluated and stored: `model`, or with `ema` the average of its weights.
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
        self.precision = resolve_precision(config.precision, device)
        _check_fit(config, partition, processes.count)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)  # torch.manual_seed would touch the GPUs' as well
            self.model = models.build(config.model, len(partition.classes))
        place(self.model, device, self.precision, channels_last=config.channels_last)
        self.average = Average(self.model, config.ema) if config.ema else None
        self.scored = self.average.model if self.average else self.model
        self.optimizer = make_optimizer(self.model, config.optimizer)
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
        self.method = BoundMethod(
            settings=config.method,
            model=self.model,
            optimizer=self.optimizer,
            total_steps=self.total_steps,
            seed=config.seed,
            mean=partition.mean,
            std=partition.std,
        )
        self.epoch = 0  # epochs finished
        self.step_in_epoch = 0
        self.tally = Tally(device)
        self.best: dict[str, Any] | None = None  # {"epoch", "validation": scores}
        self.train_seconds = 0.0

    @property
    def step(self) -> int:
        """Steps done since the start of the run."""
        return self.epoch * len(self.loader) + self.step_in_epoch

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.config.epochs * len(self.loader)

    def work(self, steps: int) -> float:
        """Return how much work the first steps of the run are: in proportion to the pixels of their images."""
        epochs, rest = divmod(steps, len(self.loader))
        whole = sum(self.loader.image_size(epoch) ** 2 for epoch in range(epochs))
        return float(whole * len(self.loader) + rest * self.loader.image_size(epochs) ** 2)

    def set_learning_rate(self) -> None:
        """Give the optimizer the rate of the step to come."""
        config = self.config
        rate = learning_rate(
            config.optimizer.learning_rate, config.schedule, self.step, len(self.loader), config.epochs
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def update_average(self) -> None:
        """Take the weights after a step into the average, which begins anew where the image size has changed."""
        if self.average:
            began = self.loader.size_began(self.epoch) * len(self.loader)
            self.average.update(self.step - 1 - began)

    def load(self) -> None:
        """Take up the folder's last checkpoint, if there is one."""
        state = load_checkpoint(self.folder.path, self.scored, self.device)
        if state is None:
            return
        try:
            if self.average:
                self.model.load_state_dict(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.precision = state["precision"]
            self.epoch, self.step_in_epoch = state["epoch"], state["step_in_epoch"]
            self.best, self.train_seconds = state["best"], state["train_seconds"]
            self.tally.load(state["tally"], self.processes)
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise InputError(f"the state of the run in {self.folder.path} is damaged: start the run anew") from error
        if self.best is not None and self.best["epoch"] == self.epoch and self.step_in_epoch == 0:
            self.save_best()  # a kill may have come between the checkpoint and this file

    def require_finite(self) -> None:
        """Raise `NonFiniteLossError` if the loss of a step of the epoch, a weight or a statistic is not finite."""
        self.tally.check(self.processes)
        tensors = [t for t in self.model.state_dict().values() if t.is_floating_point()]
        if not all(bool(torch.isfinite(t).all()) for t in tensors):
            raise NonFiniteLossError(self.step)

    def save(self) -> None:
        """Write a checkpoint; if a loss or weight is not finite, raise `NonFiniteLossError` and keep the last one."""
        self.require_finite()
        state = {
            "optimizer": self.optimizer.state_dict(),
            "precision": self.precision,
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "best": self.best,
            "train_seconds": self.train_seconds,
            "tally": self.tally.state(self.processes),
        }
        if self.average:
            state["weights"] = self.model.state_dict()
        if self.processes.first:
            save_checkpoint(self.folder.path, self.scored, state, self.step, self.metadata())

    def save_best(self) -> None:
        """Write `best.safetensors`."""
        if self.processes.first:
            save_weights(self.folder.path / "best.safetensors", self.scored, self.metadata())

    def load_best(self) -> None:
        """Put the weights of `best.safetensors` into the model that is evaluated."""
        models.load_weights(self.folder.path / "best.safetensors", self.scored)

    def metadata(self) -> dict[str, str]:
        """Return what somebody needs who finds the weights alone."""
        return {
            "format": "pt",
            "config": json.dumps(self.config.to_json()),
            "classes": json.dumps(self.partition.classes),
            "mean": json.dumps(self.partition.mean),
            "std": json.dumps(self.partition.std),
            "step": str(self.step),
        }


def _check_fit(config: Config, partition: data.Partition, processes: int) -> None:
    """Raise `InputError` if the model or the augmentation does not fit the images, before anything is written."""
    size = partition.train.images.shape[-1]
    for name, most in (("crop_padding", 2 * size), ("cutout", size)):
        if getattr(config.data, name) > most:
            raise InputError(f"{name} is {getattr(config.data, name)}: give at most {most} for {size}-pixel images")
    sizes = (*(config.data.early_sizes or ()), size)
    with torch.device("meta"):
        model = models.build(config.model, len(partition.classes))
        model(torch.empty(2, 3, size, size))
    for early in sizes:
        if early > size or early % model.downsampling:
            raise InputError(
                f"early_sizes has {early}: give multiples of {model.downsampling} up to the images' own {size}"
            )
    smallest = min(config.batch_size, len(partition.train) % config.batch_size or config.batch_size)
    least = smallest // processes // config.grad_accum_steps
    pooled = config.model.block == "sk"  # its attention is made of one pixel whatever the images' size
    if least < 2 and (pooled or min(sizes) == model.downsampling):
        where = "in block sk" if pooled else "where the last stage has one pixel"
        raise InputError(
            f"batch_size is {config.batch_size}: the last batch of an epoch leaves {max(least, 1)} image to a pass, "
            f"and batch norm needs two {where}: change it"
        )
