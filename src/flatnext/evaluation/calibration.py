"""How far a model's probabilities can be believed: exact metrics from logits, in double precision.

The probabilities are the softmax of the logits. A model is calibrated if, of the images that it is p sure of, the
fraction p is classified correctly.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from flatnext.errors import InputError

BINS = 15


@dataclass(frozen=True, kw_only=True)
class Bins:
    """Images sorted by confidence into bins of (0, 1]; `counts`, and the sums of confidence and of hits, a bin each."""

    edges: Tensor
    counts: Tensor
    confidence: Tensor
    correct: Tensor


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Negative log-likelihood (nats an image), Brier score (0 to 2), and expected calibration error with its bins."""

    nll: float
    brier: float
    ece: float
    bins: int
    count: int

    def to_json(self) -> dict[str, Any]:
        """Return the metrics as a dict that `json` can write."""
        return asdict(self)


def calibration(logits: Tensor, labels: Tensor, bins: int = BINS) -> Calibration:
    """Return the calibration metrics of logits (N x classes) against labels (int64, N)."""
    return Calibration(
        nll=nll(logits, labels),
        brier=brier(logits, labels),
        ece=expected_calibration_error(equal_width(logits, labels, bins)),
        bins=bins,
        count=len(labels),
    )


def nll(logits: Tensor, labels: Tensor) -> float:
    """Return the mean negative log-likelihood of the labels (N) under logits (N x classes), in nats."""
    logits, labels = _checked(logits, labels)
    return float(F.cross_entropy(logits, labels))


def brier(logits: Tensor, labels: Tensor) -> float:
    """Return the mean over images of the squared error of the probabilities, summed over classes (Brier 1950)."""
    logits, labels = _checked(logits, labels)
    errors = logits.softmax(dim=1) - F.one_hot(labels, logits.shape[1])
    return float(errors.square().sum(dim=1).mean())


def equal_width(logits: Tensor, labels: Tensor, bins: int = BINS) -> Bins:
    """Sort images by confidence, the largest probability, into bins of equal width, each closed on the right."""
    logits, labels = _checked(logits, labels)
    if bins < 1:
        raise InputError(f"bins is {bins}: give at least 1")
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    bin_of = torch.bucketize(confidence, edges[1:-1])  # edges[i] < confidence <= edges[i + 1]

    def sums(values: Tensor) -> Tensor:
        return torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_of, values.double())

    return Bins(
        edges=edges,
        counts=torch.bincount(bin_of, minlength=bins),
        confidence=sums(confidence),
        correct=sums(predicted == labels),
    )


def expected_calibration_error(bins: Bins) -> float:
    """Return the mean over images of |accuracy - mean confidence| in their bin (arXiv 1706.04599), from 0 to 1."""
    return float((bins.correct - bins.confidence).abs().sum() / bins.counts.sum())


def _checked(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or len(labels) == 0:
        raise InputError(
            f"logits are {tuple(logits.shape)} and labels {tuple(labels.shape)}: give N x classes and N, N at least 1"
        )
    return logits.detach().cpu().double(), labels.cpu()
