"""Adversarial model perturbation: the gradient at the worst point of a small ball around the weights.

Zheng, Zhang and Mao, Regularizing Neural Networks via Adversarial Model Perturbation, CVPR 2021, arXiv 2010.04925.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor

from flatnext.errors import InputError
from flatnext.methods.perturb import check, clip, move, restored

T = TypeVar("T")


def amp(
    closure: Callable[[], T],
    parameters: Iterable[Tensor],
    buffers: Iterable[Tensor],
    *,
    epsilon: float | Sequence[float],
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
        parameters: the weights to perturb; one without a gradient after the first pass is left alone.
        buffers: tensors that a forward pass changes and that should count the batch once, such as batch norm's.
        epsilon: radius of the ball, in the units of the weights; 0 is plain training. With ball "tensor" it may be a
            number for each of `parameters`.
        inner_lr: step length of the perturbation, one number or one for each of `parameters`; the authors lower it,
            with epsilon, as augmentation grows stronger.
        inner_iter: perturbation steps; 0 is plain training.
        ball: "tensor", the authors' code: each parameter tensor is clipped to epsilon by itself; "global", their
            paper: all of delta is clipped to epsilon.

    Returns:
        What the first call of `closure`, at theta, returned.

    Raises:
        InputError: a setting is negative, not finite or unknown.
    """
    check(epsilon=epsilon, inner_lr=inner_lr, inner_iter=inner_iter, ball=ball)
    result = closure()
    everything = list(parameters)
    for name, value in (("epsilon", epsilon), ("inner_lr", inner_lr)):
        if isinstance(value, Sequence) and len(value) != len(everything):
            raise InputError(f"{name} has {len(value)} numbers for {len(everything)} parameters: give one for each")
    active = [i for i, p in enumerate(everything) if p.grad is not None]
    if not active or inner_iter == 0 or _zero(epsilon) or _zero(inner_lr):
        return result
    weights = [everything[i] for i in active]
    radius, lengths = _each(epsilon, active), _each(inner_lr, active)
    delta = [torch.zeros_like(p) for p in weights]
    with restored(weights, list(buffers)) as theta:
        for _ in range(inner_iter):
            for d, p, length in zip(delta, weights, lengths, strict=True):
                if p.grad is not None:
                    d.add_(p.grad, alpha=length)
            clip(delta, torch.tensor(radius, dtype=delta[0].dtype, device=delta[0].device), ball)
            move(weights, theta, delta)
            closure()
    return result


def _zero(value: float | Sequence[float]) -> bool:
    return value == 0 if isinstance(value, (int, float)) else not any(value)


def _each(value: float | Sequence[float], active: list[int]) -> list[float]:
    return [value] * len(active) if isinstance(value, (int, float)) else [value[i] for i in active]
