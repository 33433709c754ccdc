"""A trained model from images to logits: made once, then used by every measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flatnext import models
from flatnext.config import Config
from flatnext.data import Dataset
from flatnext.data.normalization import Normalization
from flatnext.device import autocast, dtype, keep_memory, place, resolve_device, resolve_precision
from flatnext.errors import InputError
from flatnext.progress import Progress, silent


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictor:
    """A model with all that its use needs: ``logits = predictor(images)``.

    `images` are uint8 (N x C x H x W) and not normalised; the logits (N x classes) are on the CPU. `model` lies on
    `device` as `flatnext.device.place` leaves it for `precision` (fp32, bf16 or fp64) and `channels_last`.
    """

    model: nn.Module
    classes: tuple[str, ...]
    normalization: Normalization
    device: torch.device
    precision: str = "fp32"
    channels_last: bool = True
    _copies: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the precision."""
        if self.precision not in ("fp32", "bf16", "fp64"):
            raise InputError(f"precision is {self.precision!r}: choose fp32, bf16 or fp64")

    def __call__(self, images: Tensor, batch_size: int | None = None, progress: Progress = silent) -> Tensor:
        """Return the logits (N x classes, on the CPU) of uint8 images (N x C x H x W).

        The model runs in evaluation mode, on a CPU as its inference copy, and is left in the mode it was in.
        `batch_size` None is 125 on a CPU, whose caches are small, and 500 elsewhere. `progress` is told of the images
        that are done; what it raises ends the work.
        """
        if batch_size is None:
            batch_size = 125 if self.device.type == "cpu" else 500
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}: give at least 1")
        with torch.inference_mode(), evaluation_mode(self.model):
            logits = []
            for batch in images.split(batch_size):
                logits.append(self.forward(self.normalize(batch)))
                progress(sum(map(len, logits)), len(images))
            whole = torch.cat(logits).cpu()
        return whole.clone()  # made outside of inference mode, so that it can be changed and used in a gradient

    def normalize(self, images: Tensor) -> Tensor:
        """Return uint8 images as the model takes them: on its device, normalised, in its type and memory layout."""
        images = images.to(self.device).contiguous(memory_format=self.memory_format)
        return self.normalization(images, dtype(self.precision))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits of normalised inputs, on the device, with the graph for the gradient by the inputs.

        They come from the inference copy, which gives no gradient by the weights: use `model` for that.
        """
        with autocast(self.precision, self.device):
            return self.inference_copy(inputs).to(dtype(self.precision))

    @property
    def memory_format(self) -> torch.memory_format:
        """Return the memory layout of the inputs."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def inference_copy(self) -> nn.Module:
        """Return the form of the model that predicts fastest, with its weights as they are now."""
        now = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in _tensors(self.model)]
        if self._copies.get("of") != now:
            with torch.inference_mode(False), evaluation_mode(self.model):
                self._copies.update(of=now, copy=models.inference_copy(self.model, self.precision))
        return self._copies["copy"]


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode within the block; then every module has the mode that it had before."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def load_predictor(
    path: Path | str,
    *,
    checkpoint: str | None = None,
    device: str = "auto",
    overrides: Mapping[str, Any] | None = None,
    dataset: Dataset | None = None,
) -> Predictor:
    """Return the predictor of a run folder, a weights file, or the name of weights that ship with the package.

    Args:
        path: where the weights are, or their name; a path that exists wins over a name.
        checkpoint: in a run folder, `last` or `best` (None: `last`).
        device: `auto`, `cpu`, `cuda` ...
        overrides: settings by name, for `Config.override`.
        dataset: for a file that says neither its classes nor its normalisation, as the baseline's checkpoints.

    Raises:
        InputError: there is no such file, it is damaged, or it is of another model.
    """
    on = resolve_device(device)
    weights = models.find_weights(path, checkpoint)
    state, metadata = models.read_weights(weights)
    origin = models.read_origin(metadata, weights)
    config = (origin.config if origin else Config(recipe="unknown")).override(overrides or {})
    known = origin or dataset
    if known is None:
        raise InputError(f"{weights} does not say its classes: give the data set that it was trained on")
    keep_memory()
    precision = resolve_precision(config.precision, on)
    model = models.restore(config.model, len(known.classes), state, weights, dtype(precision))
    place(model, on, precision, channels_last=config.channels_last)
    return Predictor(
        model=model,
        classes=tuple(known.classes),
        normalization=known.normalization,
        device=on,
        precision=precision,
        channels_last=config.channels_last,
    )
