"""Sharpness-aware minimization, and its adaptive form: the gradient a fixed distance up the slope.

SAM: Foret, Kleiner, Mobahi and Neyshabur, ICLR 2021, arXiv 2010.01412.
ASAM: Kwon, Kim, Park and Choi, ICML 2021, arXiv 2102.11600.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor

from flatnext.methods.perturbation import (
    check,
    checked_pass,
    distinct,
    factors,
    gradients,
    move,
    norms,
    off,
    restored,
    scaled,
)
from flatnext.methods.rule import explained

T = TypeVar("T")


@explained
def sam(closure: Callable[[], T], parameters: Iterable[Tensor], buffers: Iterable[Tensor], *, rho: float | Tensor) -> T:
    """Leave in `p.grad` the gradient at theta + rho * g / ||g||, the norm taken over all `parameters`.

    rho is the length of the perturbation, in the units of the weights (the authors: 0.05 on CIFAR-10); 0 is plain
    training. Cost: 2 passes a step. For the contract see `flatnext.methods.Rule`.
    """
    return _ascend(closure, parameters, buffers, rho)


@explained
def asam(
    closure: Callable[[], T],
    parameters: Iterable[Tensor],
    buffers: Iterable[Tensor],
    *,
    rho: float | Tensor,
    eta: float = 0.01,
) -> T:
    """Leave in `p.grad` the gradient at theta + rho * T^2 g / ||T g||, with T = |theta| + eta, element by element.

    T is taken for every one of `parameters`. The authors' code leaves T at 1 for biases, and their rho of 0.5 on
    CIFAR-10 is for that; where biases are scaled too, as here, 2.0 was found best (davda54/sam, issue 37). 0 is plain
    training. Cost: 2 passes a step. For the contract see `flatnext.methods.Rule`.
    """
    check(eta=eta)
    return _ascend(closure, parameters, buffers, rho, eta)


def _ascend(
    closure: Callable[[], T],
    parameters: Iterable[Tensor],
    buffers: Iterable[Tensor],
    rho: float | Tensor,
    eta: float | None = None,
) -> T:
    check(rho=rho)
    result, weights, again = checked_pass(closure, distinct(parameters))
    if not weights or off(rho):
        return result
    with restored(weights, list(buffers)):
        move(weights, _direction(weights, rho, eta))
        again()
    return result


@torch.no_grad()
def _direction(weights: list[Tensor], rho: float | Tensor, eta: float | None) -> list[Tensor]:
    """Return the perturbation; without `eta` the weights' sizes do not matter."""
    vectors = gradients(weights)
    if eta is None:
        return scaled(vectors, factors(norms(vectors, "global"), math.inf, rho))
    sizes = torch._foreach_add(torch._foreach_abs(weights), eta)
    vectors = list(torch._foreach_mul(vectors, sizes))
    factor = factors(norms(vectors, "global"), math.inf, rho)
    torch._foreach_mul_(vectors, sizes)
    return scaled(vectors, factor)
