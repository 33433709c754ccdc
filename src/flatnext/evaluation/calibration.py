"""How well a model's probabilities are calibrated: exact metrics from logits, in double precision.

The probabilities are the softmax of the logits, and the confidence in an image is the largest of them. A model is
calibrated if of the images of confidence p the fraction p is classified correctly.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from flatnext.errors import InputError
from flatnext.runs.evidence import Calibration, Reliability

BINS = 15


def calibration(logits: Tensor, labels: Tensor, bins: int = BINS) -> Calibration:
    """Return the calibration metrics of logits (N x classes) against labels (int64, N).

    They are the accuracy, the negative log-likelihood (nats an image), the Brier score (0 to 2), the expected and the
    adaptive calibration error (0 to 1), both with `bins` bins, and the reliability diagram of the former.
    """
    _, correct = _confidence(logits, labels, bins)
    diagram = reliability(logits, labels, bins)
    return Calibration(
        count=len(labels),
        accuracy=int(correct.sum()) / len(labels),
        nll=nll(logits, labels),
        brier=brier(logits, labels),
        ece=expected_calibration_error(diagram),
        adaptive_ece=adaptive_calibration_error(logits, labels, bins),
        bins=bins,
        reliability=diagram,
    )


def nll(logits: Tensor, labels: Tensor) -> float:
    """Return the mean negative log-likelihood of the labels (N) under logits (N x classes), in nats."""
    logits, labels = checked(logits, labels)
    return float(F.cross_entropy(logits, labels))


def brier(logits: Tensor, labels: Tensor) -> float:
    """Return the mean over images of the squared error of the probabilities, summed over classes (Brier 1950)."""
    logits, labels = checked(logits, labels)
    errors = logits.softmax(dim=1) - F.one_hot(labels, logits.shape[1])
    return float(errors.square().sum(dim=1).mean())


def reliability(logits: Tensor, labels: Tensor, bins: int = BINS) -> Reliability:
    """Return the reliability diagram: images by confidence in bins of equal width, each closed on the right."""
    confidence, correct = _confidence(logits, labels, bins)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    bin_of = torch.bucketize(confidence, edges[1:-1])  # edges[i] < confidence <= edges[i + 1]
    counts = torch.bincount(bin_of, minlength=bins).tolist()

    def means(values: Tensor) -> tuple[float | None, ...]:
        sums = _sums(values, bin_of, bins).tolist()
        return tuple(total / count if count else None for total, count in zip(sums, counts, strict=True))

    return Reliability(
        edges=tuple(edges.tolist()), counts=tuple(counts), confidence=means(confidence), accuracy=means(correct)
    )


def expected_calibration_error(diagram: Reliability) -> float:
    """Return the mean over images of |accuracy - mean confidence| in their bin (arXiv 1706.04599), from 0 to 1."""
    bins = zip(diagram.counts, diagram.accuracy, diagram.confidence, strict=True)
    gaps = (count * abs(right - mean) for count, right, mean in bins if right is not None and mean is not None)
    return sum(gaps) / sum(diagram.counts)


def adaptive_calibration_error(logits: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Return the expected calibration error over bins of equal mass: as many images in each, to one, from 0 to 1.

    The bins are those of Nguyen and O'Connor (arXiv 1508.05154), of the confidence alone as in AdaECE of
    arXiv 2002.09437. (ACE of Nixon et al., arXiv 1904.01685, averages over the probabilities of every class.)

    Images of equal confidence share a bin, that in which the first of them falls, so that the order of the images does
    not matter. Bins may then differ in mass and some be empty: a constant predictor has one.
    """
    confidence, correct = _confidence(logits, labels, bins)
    rank = torch.searchsorted(confidence.sort().values, confidence)  # of the first with the same confidence
    gaps = _sums(correct - confidence, rank * bins // len(rank), bins)
    return float(gaps.abs().sum() / len(rank))


def _confidence(logits: Tensor, labels: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Return each image's confidence, and 1 where it is classified correctly, else 0, both double."""
    logits, labels = checked(logits, labels)
    if bins < 1:
        raise InputError(f"bins is {bins}: give at least 1")
    return logits.softmax(dim=1).amax(dim=1), (logits.argmax(dim=1) == labels).double()


def _sums(values: Tensor, bin_of: Tensor, bins: int) -> Tensor:
    return torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_of, values)


def checked(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits (double) and labels on the CPU. `InputError`: they do not fit, or a logit is not finite."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or len(labels) == 0:
        raise InputError(
            f"logits are {tuple(logits.shape)} and labels {tuple(labels.shape)}: give N x classes and N, N at least 1"
        )
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise InputError(f"labels are outside 0 to {logits.shape[1] - 1}: give logits of the labels' classes")
    logits = logits.detach().cpu().double()
    if not bool(logits.isfinite().all()):
        raise InputError("a logit is not finite: the training diverged; choose another checkpoint, or a lower --lr")
    return logits, labels.cpu()
