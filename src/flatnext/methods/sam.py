"""Sharpness-aware minimization, and its adaptive form: the gradient a fixed distance up the slope.

SAM: Foret, Kleiner, Mobahi and Neyshabur, ICLR 2021, arXiv 2010.01412.
ASAM: Kwon, Kim, Park and Choi, ICML 2021, arXiv 2102.11600.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from flatnext.methods.perturb import TINY, check, move, norms, restored

T = TypeVar("T")


def sam(closure: Callable[[], T], parameters: Iterable[Tensor], buffers: Iterable[Tensor], *, rho: float) -> T:
    """Leave in `p.grad` the gradient at theta + rho * g / ||g||, the norm taken over all `parameters`.

    rho is the length of the perturbation, in the units of the weights (the authors: 0.05 on CIFAR-10); 0 is plain
    training. Cost: 2 passes a step. For the contract see `flatnext.methods.Rule`.
    """
    return _ascend(closure, parameters, buffers, rho, torch.ones_like)


def asam(
    closure: Callable[[], T], parameters: Iterable[Tensor], buffers: Iterable[Tensor], *, rho: float, eta: float = 0.01
) -> T:
    """Leave in `p.grad` the gradient at theta + rho * T^2 g / ||T g||, with T = |theta| + eta, element by element.

    T is taken for every one of `parameters`. The authors' code leaves T at 1 for biases, and their rho of 0.5 on
    CIFAR-10 is for that; where biases are scaled too, as here, 2.0 was found best (davda54/sam, issue 37). 0 is plain
    training. Cost: 2 passes a step. For the contract see `flatnext.methods.Rule`.
    """
    check(eta=eta)
    return _ascend(closure, parameters, buffers, rho, lambda p: p.detach().abs().add_(eta))


def _ascend(
    closure: Callable[[], T],
    parameters: Iterable[Tensor],
    buffers: Iterable[Tensor],
    rho: float,
    scale: Callable[[Tensor], Tensor],
) -> T:
    check(rho=rho)
    result = closure()
    weights = [p for p in parameters if p.grad is not None]
    if not weights or rho == 0:
        return result
    with restored(weights, list(buffers)) as theta:
        move(weights, theta, _direction(weights, rho, [scale(p) for p in weights]))
        closure()
    return result


@torch.no_grad()
def _direction(weights: Sequence[Tensor], rho: float, scales: Sequence[Tensor]) -> list[Tensor]:
    scaled = [p.grad * t for p, t in zip(weights, scales, strict=True) if p.grad is not None]
    length = rho / (norms(scaled, "global")[0] + TINY)
    return [s.mul_(t).mul_(length) for s, t in zip(scaled, scales, strict=True)]
