"""A classifier from weights of this package, run by torch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from flatnext import data, models
from flatnext.deploy.classifier import Classifier
from flatnext.deploy.pixels import Preprocessing
from flatnext.evaluation import load_predictor
from flatnext.evaluation.trained_model import other_images
from flatnext.models import Origin


def load_torch(path: Path, *, checkpoint: str | None = None, device: str = "auto") -> Classifier:
    """Return the classifier of a run folder, a weights file, or the name of weights; errors as of `load`."""
    weights = models.find_weights(path, checkpoint)
    origin = models.require_origin(models.read_weights(weights)[1], weights)
    predictor = load_predictor(weights, device=device)

    def logits(images: np.ndarray) -> np.ndarray:
        return predictor(torch.from_numpy(images)).float().numpy()

    return Classifier(
        source=weights,
        classes=origin.classes,
        preprocessing=preprocessing(origin),
        temperature=origin.conformal.temperature if origin.conformal else 1.0,
        conformal=origin.conformal,
        logits=logits,
    )


def unseen(test_set: Path | str, weights: Path, origin: Origin) -> data.Split:
    """Return images of a test set as the model takes them; errors as of `other_images`."""
    how, skip_damaged = asdict(preprocessing(origin)), origin.config.data.skip_damaged
    return other_images(test_set, weights, classes=origin.classes, skip_damaged=skip_damaged, **how)


def preprocessing(origin: Origin) -> Preprocessing:
    """Return what becomes of an image before the model that `origin` describes."""
    channels, resize = len(origin.normalization.mean), origin.config.data.resize
    return Preprocessing(image_size=origin.side, channels=channels, resize=resize)
