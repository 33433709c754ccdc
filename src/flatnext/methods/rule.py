"""The contract between a method and whoever trains with it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar, cast

from torch import Tensor, nn

from flatnext.errors import InputError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Rule(Protocol):
    """A gradient rule: calls `closure` as often as the method needs and leaves the gradient to use in `p.grad`.

    `closure()` zeroes the gradients, runs forward and backward over the whole batch (all its micro-batches, if it is
    accumulated), clips if one clips, averages over processes if there are several, and returns whatever the caller
    wants to know of the pass, such as the loss. The rule returns what the first call returned.

    `parameters` are the tensors that the rule may perturb: all of a model's, or some. One that is frozen, or to which
    the first call gives no gradient, is left alone; one that is given twice counts once. `buffers` are tensors that a
    forward pass changes in place and that should count a batch once: batch norm's running statistics. They are read
    after the first call. When the rule is done, `parameters` are to the bit what they were, also if `closure` raised,
    and `buffers` are as the first call left them. With micro-batches the first call counts each of them: batch norm
    then takes as many smaller batches into its statistics as there are, and its `num_batches_tracked` grows by as many.
    A closure that leaves no gradient in any of `parameters` is an `InputError`, and so are no parameters.

    A module that assigns its statistic anew (`self.mean = 0.9 * self.mean + ...`) counts every pass, since nothing
    leads from the old tensor to the new one. `flatnext.AMP`, `SAM` and `ASAM` know the modules: there it counts once.

    Zeroing is the closure's. A rule that calls it more than once zeroes the gradients of `parameters` in between, but
    knows of no others.

    A rule keeps no state: an ordinary torch optimizer takes the step, and owns momentum, weight decay and the learning
    rate.
    """

    def __call__(self, closure: Callable[[], T], parameters: Iterable[Tensor], buffers: Iterable[Tensor]) -> T:
        """Compute the gradient."""


def explained(rule: F) -> F:
    """Return a rule that answers a call with other arguments than a rule's three by the right one (`InputError`).

    A generator that was read before is another such call: without a word it would turn the method off.
    """
    first, tensors, last = list(inspect.signature(rule).parameters)[:3]
    example = "[images]" if tensors == "inputs" else "model.parameters()"
    call = f"{rule.__name__}({first}, {example}, model.buffers(), ...)"

    @functools.wraps(rule)
    def explaining(*args: Any, **settings: Any) -> Any:
        given = dict(zip((first, tensors, last), args, strict=False)) | settings
        if not callable(given.get(first)):
            raise InputError(f"{first} is no function: give one that runs forward and backward: {call}")
        if tensors not in given or isinstance(given[tensors], (nn.Module, Tensor)):
            what = f"a {type(given[tensors]).__name__}" if tensors in given else "missing"
            raise InputError(f"{tensors} is {what}: give the tensors to perturb: {call}")
        if given.get(last) is None or isinstance(given[last], nn.Module):
            raise InputError(
                f"{last} is missing: give the tensors that a forward pass changes and that should count a batch once, "
                f"such as batch norm's statistics, or () where there are none: {call}"
            )
        for name in (tensors, last):
            if inspect.isgenerator(given[name]) and given[name].gi_frame is None:
                raise InputError(f"{name} is a generator that was read already: give a list, or make it anew: {call}")
        return rule(*args, **settings)

    return cast(F, explaining)
