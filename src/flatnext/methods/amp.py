"""Adversarial model perturbation: the gradient at the worst point of a small ball around the weights.

Zheng, Zhang and Mao, Regularizing Neural Networks via Adversarial Model Perturbation, CVPR 2021, arXiv 2010.04925.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor

from flatnext.errors import InputError
from flatnext.methods.perturbation import check, checked_pass, clipped, distinct, gradients, move, off, restored
from flatnext.methods.rule import explained
from flatnext.words import counted

T = TypeVar("T")


@explained
def amp(
    closure: Callable[[], T],
    parameters: Iterable[Tensor],
    buffers: Iterable[Tensor],
    *,
    epsilon: float | Sequence[float] | Tensor,
    inner_lr: float | Sequence[float] = 1.0,
    inner_iter: int = 1,
    ball: Literal["tensor", "global"] = "tensor",
) -> T:
    """Leave in `p.grad` the gradient at theta + delta. See `flatnext.methods.Rule` for the contract.

    delta starts at 0 and is set `inner_iter` times to ``clip(delta + inner_lr * grad(theta + delta), epsilon)``, where
    clip scales a vector down to the norm epsilon if it is longer and leaves it alone if it is shorter: a small gradient
    gives a small perturbation (SAM, in contrast, always goes to the edge).

    Cost: 1 + inner_iter passes a step.

    Args:
        closure: zeroes the gradients, runs forward and backward, returns anything.
        parameters: the weights to perturb; one that is frozen, or to which the first pass gives no gradient, is left
            alone, and one that is given twice counts once.
        buffers: tensors that a forward pass changes in place and that should count the batch once, such as batch
            norm's.
        epsilon: radius of the ball, in the units of the weights; 0 is plain training. With ball "tensor" it may be a
            number for each of `parameters`. A 0-dimensional tensor on their device is read there, also when the
            step is replayed.
        inner_lr: step length of the perturbation, one number or one for each of `parameters`; the authors lower it,
            with epsilon, as augmentation grows stronger.
        inner_iter: perturbation steps; 0 is plain training.
        ball: "tensor", the authors' code: each parameter tensor is clipped to epsilon by itself; "global", their
            paper: all of delta is clipped to epsilon.

    Returns:
        What the first call of `closure`, at theta, returned.

    Raises:
        InputError: a setting is no number, negative, not finite or unknown, the closure runs no backward pass, or a
            parameter is given twice where `epsilon` or `inner_lr` has a number for each.
    """
    check(epsilon=epsilon, inner_lr=inner_lr, inner_iter=inner_iter, ball=ball, several=("epsilon", "inner_lr"))
    if ball == "global" and isinstance(epsilon, Sequence):
        raise InputError("epsilon has a number for each parameter, and ball=global one for all: give one number")
    everything = distinct(parameters, epsilon=epsilon, inner_lr=inner_lr)
    result, weights, again = checked_pass(closure, everything)
    for name, value in (("epsilon", epsilon), ("inner_lr", inner_lr)):
        if isinstance(value, Sequence) and len(value) != len(everything):
            given, wanted = counted(len(value), "number"), counted(len(everything), "parameter")
            raise InputError(f"{name} has {given} for {wanted}: give one for each")
    if not weights or inner_iter == 0 or off(epsilon, inner_lr):
        return result
    places = {id(p): i for i, p in enumerate(everything)}
    active = [places[id(p)] for p in weights]
    radius, length = _of(epsilon, active), _of(inner_lr, active)
    with restored(weights, list(buffers)) as theta:
        delta = clipped(gradients(weights), length, radius, ball)
        move(weights, delta)
        again()
        for _ in range(inner_iter - 1):
            torch._foreach_add_(delta, torch._foreach_mul(gradients(weights), length))
            delta = clipped(delta, 1.0, radius, ball)
            move(weights, delta, theta)
            again()
    return result


def _of(value: T, active: list[int]) -> T | float | list[float]:
    """Return the numbers of the active parameters: one, if they are the same."""
    if not isinstance(value, Sequence):
        return value
    chosen = [float(value[i]) for i in active]
    return chosen[0] if len(set(chosen)) == 1 else chosen
