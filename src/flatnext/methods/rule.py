"""The contract between a method and whoever trains with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from torch import Tensor

T = TypeVar("T")


class Rule(Protocol):
    """A gradient rule: calls `closure` as often as the method needs and leaves the gradient to use in `p.grad`.

    `closure()` zeroes the gradients, runs forward and backward over the whole batch (all its micro-batches, if it is
    accumulated), clips if one clips, averages over processes if there are several, and returns whatever the caller
    wants to know of the pass, such as the loss. The rule returns what the first call returned.

    `parameters` are the tensors that the rule may perturb: all of a model's, or some. `buffers` are tensors that a
    forward pass changes and that should count a batch once: batch norm's running statistics. Both are read after the
    first call. When the rule is done, `parameters` are to the bit what they were, also if `closure` raised, and
    `buffers` are as the first call left them. With micro-batches the first call counts each of them: batch norm then
    takes as many smaller batches into its statistics as there are, and its `num_batches_tracked` grows by as many.
    A closure that leaves no gradient in any of `parameters` is an `InputError`.

    A rule keeps no state: an ordinary torch optimizer takes the step, and
    owns momentum, weight decay and the learning rate.
    """

    def __call__(self, closure: Callable[[], T], parameters: Iterable[Tensor], buffers: Iterable[Tensor]) -> T:
        """Compute the gradient."""
