"""Adversarial model perturbation: the gradient at the worst point of a small ball around the weights.

Zheng, Zhang and Mao, Regularizing Neural Networks via Adversarial Model Perturbation, CVPR 2021, arXiv 2010.04925.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

import torch
from torch import Tensor

from flatnext.methods.rule import restored

T = TypeVar("T")


def amp(
    closure: Callable[[], T],
    parameters: Iterable[Tensor],
    buffers: Iterable[Tensor],
    *,
    epsilon: float,
    inner_lr: float = 1.0,
    inner_iter: int = 1,
    ball: Literal["tensor", "global"] = "tensor",
) -> T:
    """Leave in `p.grad` the gradient at theta + delta. See `flatnext.methods.Rule` for the contract.

    delta starts at 0 and is set `inner_iter` times to ``clip(delta + inner_lr * grad(theta + delta), epsilon)``, where
    clip scales a vector down to the norm epsilon if it is longer and leaves it alone if it is shorter: a small gradient
    gives a small perturbation (SAM, in contrast, always goes to the edge).

    Args:
        closure: zeroes the gradients, runs forward and backward, returns anything.
        parameters: the weights; one without a gradient after the first pass is not perturbed.
        buffers: tensors that a forward pass changes and that should count the batch once, such as batch norm's.
        epsilon: radius of the ball, in the units of the weights; 0 is plain training.
        inner_lr: step length of the perturbation; the authors lower it, with epsilon, as augmentation grows stronger.
        inner_iter: perturbation steps, one pass each; 0 is plain training.
        ball: "tensor", the authors' code: each parameter tensor is clipped to epsilon by itself; "global", their
            paper: all of delta is clipped to epsilon.

    Returns:
        What the first call of `closure`, at theta, returned.
    """
    parameters, buffers = list(parameters), list(buffers)
    result = closure()
    weights = [p for p in parameters if p.grad is not None]
    if not weights or 0 in (epsilon, inner_lr, inner_iter):
        return result
    delta = [torch.zeros_like(p) for p in weights]
    with restored(weights, buffers) as theta:
        for _ in range(inner_iter):
            with torch.no_grad():
                for d, p in zip(delta, weights, strict=True):
                    if p.grad is not None:
                        d.add_(p.grad, alpha=inner_lr)
                _clip(delta, epsilon, ball)
                for p, t, d in zip(weights, theta, delta, strict=True):
                    torch.add(t, d, out=p)
            closure()
    return result


def _clip(delta: list[Tensor], epsilon: float, ball: str) -> None:
    """Scale `delta` in place into the ball of radius epsilon. The 1e-12 is the authors'."""
    norms = torch.stack([torch.linalg.vector_norm(d) for d in delta])
    if ball == "global":
        norms = torch.linalg.vector_norm(norms).expand_as(norms)
    scales = (epsilon / (norms + 1e-12)).clamp(max=1.0)
    for d, scale in zip(delta, scales, strict=True):
        d.mul_(scale)
