"""Random model perturbation: a perturbation of AMP's size in a random direction, the control of the AMP paper.

If it does as well as AMP, the direction does not matter. Zheng, Zhang and Mao, CVPR 2021, arXiv 2010.04925.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

import torch
from torch import Tensor

from flatnext.methods.perturbation import (
    TINY,
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
def rmp(
    closure: Callable[[], T],
    parameters: Iterable[Tensor],
    buffers: Iterable[Tensor],
    *,
    generator: torch.Generator,
    epsilon: float | Tensor,
    inner_lr: float = 1.0,
    ball: Literal["tensor", "global"] = "tensor",
) -> T:
    """Leave in `p.grad` the gradient at theta + delta, where delta is Gaussian noise of the norm that AMP's would have.

    That norm is min(inner_lr * ||g||, epsilon), of each tensor or of all together, as `ball` says. The first pass is
    needed for it, so that the two methods differ in the direction alone, and cost the same: 2 passes a step.
    `generator` must be on the parameters' device. For the other arguments see `flatnext.methods.amp`.
    """
    check(epsilon=epsilon, inner_lr=inner_lr, ball=ball)
    result, weights, again = checked_pass(closure, distinct(parameters))
    if not weights or off(epsilon, inner_lr):
        return result
    slopes = norms(gradients(weights), ball)
    lengths = torch._foreach_mul(slopes, factors(slopes, inner_lr, epsilon))
    noise = [_noise(p, generator) for p in weights]
    delta = scaled(noise, torch._foreach_div(lengths, torch._foreach_add(norms(noise, ball), TINY)))
    with restored(weights, list(buffers)):
        move(weights, delta)
        again()
    return result


def _noise(parameter: Tensor, generator: torch.Generator) -> Tensor:
    """Return Gaussian noise of a parameter's shape: of one that FSDP2 has sharded, this process's part of the whole."""
    noise = torch.randn(parameter.shape, generator=generator, device=parameter.device, dtype=parameter.dtype)
    if not hasattr(parameter, "placements"):
        return noise
    from torch.distributed.tensor import DTensor, distribute_tensor  # where it is sharded, it is imported already

    assert isinstance(parameter, DTensor)
    return distribute_tensor(noise, parameter.device_mesh, parameter.placements, src_data_rank=None)
