"""What is exported: trained weights with all that they say, and the real images that an export is proved on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flatnext import data, models
from flatnext.data import Split
from flatnext.deploy.export_network import ExportedNetwork
from flatnext.deploy.export_proof import GOLDEN, evenly
from flatnext.deploy.manifest import Manifest
from flatnext.deploy.torch_model import preprocessing, unseen
from flatnext.errors import InputError
from flatnext.evaluation.trained_model import load_trained_model
from flatnext.models.network import Network
from flatnext.models.weights import Origin
from flatnext.words import counted


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Trained weights: their file, what they are called, what they say, and their network in float32 on the CPU."""

    weights: Path
    name: str
    origin: Origin
    state: Mapping[str, Tensor]
    metadata: Mapping[str, Any]
    model: Network

    def manifest(self) -> Manifest:
        """Return the manifest of an export, as far as the weights alone say it."""
        prepared, conformal = preprocessing(self.origin), self.origin.conformal
        return Manifest(
            name=self.name,
            classes=self.origin.classes,
            image_size=prepared.image_size,
            channels=1 if prepared.channels == 1 else 3,
            resize=prepared.resize,
            temperature=conformal.temperature if conformal else 1.0,
            conformal=conformal,
        )

    def network(self) -> ExportedNetwork:
        """Return the network that is exported."""
        return ExportedNetwork(self.model, self.origin.normalization.tensors("cpu"), self.manifest())

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return the logits of uint8 images (N x C x H x W) as the trained network gives them, batch norm and all."""
        with torch.inference_mode():
            return self.model(self.origin.normalization(torch.from_numpy(images))).numpy()


@dataclass(frozen=True, kw_only=True, eq=False)
class RealImages:
    """Images to prove an export on, in words `source`, and others to calibrate it by."""

    proof: Split
    source: str
    calibration: Split


def read_source(path: Path | str, checkpoint: str | None = None) -> Source:
    """Return the weights of a run folder, a file, or a name. `InputError`: they do not say of which model they are."""
    weights = models.find_weights(path, checkpoint)
    state, metadata = models.read_weights(weights)
    origin = models.require_origin(metadata, weights)
    name = metadata.get("name") or (weights.parent.resolve().name if Path(path).is_dir() else weights.stem)
    return Source(
        weights=weights,
        name=str(name),
        origin=origin,
        state=state,
        metadata=metadata,
        model=models.restore(origin.config.model, len(origin.classes), state, weights),
    )


def read_images(
    source: Source,
    count: int,
    calibration: int,
    *,
    data_dir: Path | str = ".data",
    test_set: Path | str | None = None,
    download: bool = True,
    progress: bool = False,
) -> RealImages:
    """Return up to `count` test images to prove an export on, and up to `calibration` to calibrate it by.

    They are test and training images of the data set that the weights were trained on. With `test_set` they all are
    from there: where some are to calibrate by, every second one is. `InputError`: the images are not there, or others
    than in training.
    """
    if count < 1:
        raise InputError(f"images is {count}: give at least 1")
    if test_set is not None:
        images = unseen(test_set, source.weights, source.origin)
        source_words, other = f"images of {data.test_set_name(test_set)}", images
        if calibration:
            if len(images) < 2 * GOLDEN:
                there = counted(len(images), "image")
                raise InputError(f"{test_set} has {there}: give at least {2 * GOLDEN}, as half of them calibrate")
            places = torch.arange(len(images))
            images, other = images.select(places[::2]), images.select(places[1::2])
    else:
        trained = load_trained_model(
            source.weights, data_dir=data_dir, device="cpu", download=download, progress=progress
        )
        images, source_words = trained.split("test"), f"test images of {trained.dataset.name}"
        other = trained.split("train") if calibration else images
    return RealImages(proof=evenly(images, count), source=source_words, calibration=evenly(other, calibration))
