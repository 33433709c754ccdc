"""The losses that attacks raise: functions of logits (B x classes) and labels (B), with a value for each image.

Also the classes that targeted attacks aim at.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-12


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log((1 - p) / p), p being the label's probability: log(exp(c) - 1) where c is the cross-entropy.

    It rises with the cross-entropy, so an attack that looks at the gradient's direction and at which loss is larger
    does the same with either. The cross-entropy's gradient rounds to 0 where the model is very confident; this one's
    does not.
    """
    return _others(logits, labels).logsumexp(dim=1) - _of(logits, labels)


def margin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the largest other logit minus the label's."""
    return _others(logits, labels).amax(dim=1) - _of(logits, labels)


def targeted_dlr(logits: Tensor, labels: Tensor, goals: Tensor) -> Tensor:
    """Return the difference of logits ratio for the classes `goals` (B; arXiv 2003.01690).

    It is their lead over the gap between the first logit and the mean of the third and fourth, and does not change when
    the logits are shifted or scaled. It needs 4 classes.
    """
    ordered = logits.sort(dim=1, descending=True).values
    gap = ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2
    return lead(logits, labels, goals) / (gap + TINY)


def lead(logits: Tensor, labels: Tensor, goals: Tensor) -> Tensor:
    """Return the logit of the class `goals` (B) minus the label's."""
    return _of(logits, goals) - _of(logits, labels)


def likeliest(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return the `count` classes likeliest after the label, or all others (int64, B x count), likeliest first."""
    order = _others(logits, labels).argsort(dim=1, descending=True, stable=True)
    return order[:, : min(count, logits.shape[1] - 1)]


def _others(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.scatter(1, labels[:, None], -torch.inf)


def _of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)
