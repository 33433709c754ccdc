"""Neighbouring groups of a convolution's weight put together, with zeros between them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class MergeGroups(torch.autograd.Function):
    """Make the weight of a grouped convolution that of one with fewer, wider groups, and its gradient the reverse."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, groups: int, together: int, dtype: torch.dtype) -> Tensor:
        """Return (O, C / groups * together, 3, 3) of type `dtype`, zero between the groups that are put together."""
        ctx.sizes = groups, together
        ctx.weight = weight.shape, weight.stride(), weight.dtype
        outputs, group, *kernel = weight.shape
        shape = outputs, group * together, *kernel
        merged = torch.empty(shape, dtype=dtype, device=weight.device, memory_format=torch.channels_last).zero_()
        _blocks(merged, groups, together).copy_(_by_group(weight, groups, together))
        return merged

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the grouped weight, in its layout."""
        shape, stride, dtype = ctx.weight
        grouped = torch.empty_strided(shape, stride, dtype=dtype, device=gradient.device)
        _by_group(grouped, *ctx.sizes).copy_(_blocks(gradient, *ctx.sizes))
        return grouped, None, None, None


def _by_group(weight: Tensor, groups: int, together: int) -> Tensor:
    """View (O, c, 3, 3) as (groups / together, outputs of a group, c, 3, 3, together)."""
    return weight.unflatten(0, (groups // together, together, -1)).movedim(1, -1)


def _blocks(merged: Tensor, groups: int, together: int) -> Tensor:
    """View the blocks on the diagonal of (O, c * together, 3, 3) as `_by_group` has them."""
    blocks = merged.unflatten(1, (together, -1)).unflatten(0, (groups // together, together, -1))
    return blocks.diagonal(dim1=1, dim2=3)
