"""The exponential moving average of a run's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage:
    """A copy of a model whose parameters and floating-point buffers are the moving average of the model's.

    The average is kept in the precision of the weights, which is at least float32. Integer buffers, such as batch
    norm's count of batches, are copied. The only state is `model`: callers say how many updates there have been.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self._floats, self._sources = (
            [t for t in (*m.parameters(), *m.buffers()) if t.is_floating_point()] for m in (self.model, model)
        )
        self._others, self._other_sources = (
            [b for b in m.buffers() if not b.is_floating_point()] for m in (self.model, model)
        )

    @torch.no_grad()
    def update(self, seen: int) -> None:
        """Add the current weights; `seen` is the number of updates since the average began, 0 to begin anew."""
        torch._foreach_lerp_(self._floats, self._sources, 1 - decay_after(seen, self.decay))
        if self._others:
            torch._foreach_copy_(self._others, self._other_sources)


def decay_after(seen: int, decay: float) -> float:
    """Return the decay of an update after `seen` others: `decay`, but less at first, and 0 in the first update.

    A constant decay would keep the weights of the start in the average for about 1 / (1 - decay) steps. It is
    min(decay, (1 + seen) / (10 + seen)), as TensorFlow's ExponentialMovingAverage has it with `num_updates`.
    """
    return min(decay, (1 + seen) / (10 + seen)) if seen else 0.0
