"""A predictor around any model, normalised by given constants."""

from __future__ import annotations

import torch

from flatnext.data.normalization import Normalization
from flatnext.evaluation import Predictor


def predictor_of(model, mean=(0, 0, 0), std=(1, 1, 1), *, precision="fp32", channels_last=True, classes=()):
    """Return a predictor of a model on the CPU."""
    return Predictor(
        model=model,
        classes=tuple(classes),
        normalization=Normalization(mean, std),
        device=torch.device("cpu"),
        precision=precision,
        channels_last=channels_last,
    )
