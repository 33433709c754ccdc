"""The gradients of the kernels' functions by torch's operations, which can be differentiated again.

A kernel leaves numbers that no graph knows. Where torch wants the graph of a gradient (`create_graph`), it calls
`backward` with gradients enabled, and the functions here are used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def convolution(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of x and the weight of a 3x3 convolution, padded by 1, or of a 1x1 one without padding."""
    x, weight = ctx.saved_tensors
    dx, dweight, _ = torch.ops.aten.convolution_backward(
        *(gradient.to(weight.dtype), x.to(weight.dtype), weight, None),
        *([ctx.stride] * 2, [weight.shape[2] // 2] * 2, [1, 1]),
        *(False, [0, 0], x.shape[1] // weight.shape[1]),
        [*ctx.needs_input_grad[:2], False],
    )
    return None if dx is None else dx.to(x.dtype), dweight


def batch_norm(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, the residual, weight and bias of batch norm with what follows it."""
    x, y, weight, bias, mean, inverse_std = ctx.saved_tensors
    if ctx.relu:
        with torch.no_grad():
            row = (1, -1, 1, 1)
            scale = (weight * inverse_std).view(row)
            passed = (y if y is not None else (x - mean.view(row)) * scale + bias.view(row)) > 0
        gradient = torch.where(passed, gradient, 0)
    dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
        gradient, x, weight, None, None, mean, inverse_std, True, ctx.eps, [True] * 3
    )
    return dx, None if y is None else gradient, dweight, dbias
