"""The contract between a method and whoever trains with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Rule(Protocol):
    """A gradient rule: calls `closure` as often as the method needs and leaves the gradient to use in `p.grad`.

    `closure()` zeroes the gradients, runs forward and backward over the whole batch (all its micro-batches, if it is
    accumulated), clips if one clips, and returns whatever the caller wants to know of the pass, such as the loss. The
    rule returns what the first call returned: the pass at the unperturbed weights.

    When the rule is done, `parameters` are to the bit what they were, also if `closure` raised, and `buffers` (batch
    norm's running statistics) are as the first pass left them: a batch counts once. The rule keeps no state. An
    ordinary torch optimizer takes the step, and owns momentum, weight decay and the learning rate.
    """

    def __call__(self, closure: Callable[[], T], parameters: Iterable[Tensor], buffers: Iterable[Tensor]) -> T:
        """Compute the gradient."""


@contextmanager
def restored(parameters: Sequence[Tensor], buffers: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Put `parameters` and `buffers` back as they are now, to the bit, when the block ends; yield the saved parameters.

    They are copied back, since adding a perturbation and subtracting it again does not give the same bits.
    """
    saved = [p.detach().clone() for p in parameters]
    saved_buffers = [b.detach().clone() for b in buffers]
    try:
        yield saved
    finally:
        with torch.no_grad():
            for tensor, value in zip([*parameters, *buffers], [*saved, *saved_buffers], strict=True):
                tensor.copy_(value)
