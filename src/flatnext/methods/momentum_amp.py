"""Momentum AMP: a perturbation along the optimizer's momentum, with no more passes than plain training.

After momentum-SAM (Becker, Altrock and Risse, 2024, arXiv 2401.12033), which takes a step of fixed length along the
descending momentum; here it is clipped into AMP's ball instead (arXiv 2010.04925), so that a small momentum gives a
small perturbation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

import torch
from torch import Tensor

from flatnext.errors import warn_of_fallback
from flatnext.methods.perturbation import (
    check,
    checked_pass,
    distinct,
    factors,
    move,
    norms,
    off,
    require_minimizing,
    restored,
    scaled,
)
from flatnext.methods.rule import explained

T = TypeVar("T")


@explained
def momentum_amp(
    closure: Callable[[], T],
    parameters: Iterable[Tensor],
    buffers: Iterable[Tensor],
    *,
    optimizer: torch.optim.Optimizer,
    epsilon: float | Tensor,
    inner_lr: float = 1.0,
    ball: Literal["tensor", "global"] = "tensor",
) -> T:
    """Leave in `p.grad` the gradient at theta + delta, delta = clip(-inner_lr * momentum, epsilon).

    The momentum is the optimizer's: `momentum_buffer` of SGD, `exp_avg` of Adam and similar ones. It points up the
    slope, so delta points where the step will go, as in momentum-SAM. Before the first step, and without momentum, this
    is plain training. The only pass is the perturbed one: its result and its effect on `buffers` are those of
    theta + delta. After the pass the weights are theta again, so evaluation and checkpoints see theta.

    A parameter that requires no gradient is left alone. One that does is perturbed along what momentum it has: before
    the only pass nobody knows whether that will reach it. Leave out what the closure does not use for a while.

    Cost: 1 pass a step. For the other arguments see `flatnext.methods.amp`.
    """
    check(epsilon=epsilon, inner_lr=inner_lr, ball=ball)
    require_minimizing(optimizer)
    everything = distinct(parameters)
    pairs = [(p, _momentum(optimizer, p)) for p in everything if p.requires_grad]
    weights = [p for p, momentum in pairs if momentum is not None]
    if not weights and any(optimizer.state.get(p) for p, _ in pairs):
        warn_of_fallback(
            f"{type(optimizer).__name__} keeps no momentum, so that momentum_amp is plain training: give an optimizer "
            "with momentum, such as SGD or AdamW",
            once=True,
        )
    if not weights or off(epsilon, inner_lr):
        return checked_pass(closure, everything)[0]
    momenta = [momentum for _, momentum in pairs if momentum is not None]
    downhill = torch._foreach_neg(factors(norms(momenta, ball), inner_lr, epsilon))
    delta = scaled(momenta, downhill)
    with restored(weights):
        move(weights, delta)
        return checked_pass(closure, everything)[0]


def _momentum(optimizer: torch.optim.Optimizer, parameter: Tensor) -> Tensor | None:
    state = optimizer.state.get(parameter, {})
    momentum = state.get("momentum_buffer", state.get("exp_avg"))
    return momentum.to_dense() if isinstance(momentum, Tensor) and momentum.is_sparse else momentum
