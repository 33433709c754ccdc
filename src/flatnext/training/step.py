"""One training step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flatnext.methods import Rule


@dataclass(frozen=True)
class StepStats:
    """Sums over the images of one step, as 0-dimensional tensors on the device: reading them is left to the caller."""

    loss: Tensor
    correct: Tensor
    count: int


@dataclass(frozen=True, kw_only=True)
class Step:
    """Computes a batch's gradient by the rule and lets the optimizer take the step."""

    model: nn.Module
    rule: Rule
    optimizer: torch.optim.Optimizer
    autocast: Callable[[], AbstractContextManager[object]]
    label_smoothing: float = 0.0
    clip_norm: float | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> StepStats:
        """Train on images (B x 3 x H x W) with labels (B); return the statistics at the weights as they were."""

        def closure() -> StepStats:
            self.optimizer.zero_grad(set_to_none=True)
            with self.autocast():
                logits = self.model(images)
            logits = logits.to(images.dtype)  # the loss in full precision
            loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
            loss.backward()
            if self.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
            correct = (logits.detach().argmax(dim=1) == labels).sum()
            return StepStats(loss.detach() * len(labels), correct, len(labels))

        stats = self.rule(closure, self.model.parameters(), self.model.buffers())
        self.optimizer.step()
        return stats
