"""What is evaluated: trained weights in their model, with the data set that they were trained for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flatnext import data, models
from flatnext.config import Config
from flatnext.device import dtype, keep_memory, place, resolve_device, resolve_precision
from flatnext.errors import InputError
from flatnext.evaluation.metrics import predict


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A model in evaluation mode on its device, and its data.

    `mean` and `std` are what the images are normalised by, as in its training (pixels in [0, 1], a channel each).
    `traced` tells whether the file says which images it was trained on; the report's checkpoints do not.
    """

    weights: Path
    config: Config
    model: nn.Module
    dataset: data.Dataset
    mean: tuple[float, ...]
    std: tuple[float, ...]
    traced: bool
    device: torch.device
    precision: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes."""
        return tuple(self.dataset.classes)

    @property
    def inputs(self) -> dict[str, Any]:
        """Return normalisation and memory layout, as arguments of the measures."""
        return {"mean": self.mean, "std": self.std, "channels_last": self.config.channels_last}

    def split(self, name: str) -> data.Split:
        """Return the images of `train`, `validation` or `test`. `InputError`: there are none, or nobody knows which."""
        if name not in ("test", "validation", "train"):
            raise InputError(f"split is {name!r}: choose test, validation or train")
        if name == "test":
            return self.dataset.test
        if not self.traced:
            raise InputError(f"{self.weights} does not say which images it was trained on: evaluate it on --split test")
        partition = data.partition(self.dataset, self.config.data)
        split = partition.train if name == "train" else partition.validation
        if split is None:
            raise InputError(f"{self.weights} was trained without a validation split: evaluate on --split test")
        return split

    def other_test_set(self, path: Path | str) -> data.Split:
        """Return other images of the same classes, as `flatnext.data.read_test_set` reads them."""
        return data.read_test_set(path, self.classes, self.dataset.test.images.shape[-1])

    @cached_property
    def _form(self) -> nn.Module:
        return models.answering_form(self.model, self.precision)

    def predict(self, split: data.Split) -> Tensor:
        """Return the logits (N x classes, on the CPU) of all images of a split."""
        return predict(self._form, split, device=self.device, precision=self.precision, **self.inputs)

    def answer(self, pixels: Tensor) -> Tensor:
        """Return the logits of uint8 images (N x 3 x H x W)."""
        return self.predict(data.Split(pixels, torch.zeros(len(pixels), dtype=torch.int64)))


def load_subject(
    path: Path | str,
    *,
    checkpoint: str | None = None,
    data_dir: Path | str = ".data",
    device: str = "auto",
    download: bool = True,
    progress: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> Subject:
    """Load the weights at `path` and their data set; `evaluate` has the arguments.

    Raises:
        InputError: the file or the data is not there, or the weights are of another model.
    """
    where = resolve_device(device)  # before anything is downloaded
    weights = models.find_weights(path, checkpoint)
    state, metadata = models.read_weights(weights)
    origin = models.read_origin(metadata, weights)
    config = (origin.config if origin else Config(recipe="unknown")).override(overrides or {})
    dataset = data.load(
        config.data.dataset, Path(data_dir), image_size=config.data.image_size, download=download, progress=progress
    )
    known = origin.classes if origin else dataset.classes
    if known != tuple(dataset.classes):
        raise InputError(f"{weights} knows the classes {', '.join(known)}; the data has {', '.join(dataset.classes)}")
    keep_memory()
    precision = resolve_precision(config.precision, where)
    model = models.restore(config.model, len(dataset.classes), state, weights, dtype(precision))
    place(model, where, precision, channels_last=config.channels_last)
    return Subject(
        weights=weights,
        config=config,
        model=model,
        dataset=dataset,
        mean=origin.mean if origin else dataset.mean,
        std=origin.std if origin else dataset.std,
        traced=origin is not None,
        device=where,
        precision=precision,
    )
