"""Batch norm in training with what follows it, a residual addition and ReLU, as one kernel.

The kernel reads and writes each activation about half as often as the three operations do, forward and backward, and
keeps no memory beyond `x` and what it returns. Its sums are float32 within blocks of at most 512 pixels, and float64
over the blocks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flatnext.ops import twice
from flatnext.ops.cpu import outputs
from flatnext.ops.cpu.build import kernels_for, library
from flatnext.ops.switch import has_hooks, usable


def batch_norm(norm: nn.BatchNorm2d, x: Tensor, residual: Tensor | None, *, relu: bool) -> Tensor:
    """Return ``relu(norm(x) + residual)`` and update the running statistics, for tensors that `fits` takes."""
    y = _BatchNorm.apply(
        x, residual, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.momentum, norm.eps, relu
    )
    norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
    return y


def fits(norm: nn.BatchNorm2d, x: Tensor, residual: Tensor | None) -> bool:
    """Return whether the kernel takes these tensors. It is given addresses and checks nothing itself."""
    return (
        type(norm) is nn.BatchNorm2d
        and norm.training
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and all(t is not None and _is_float_row(t, norm.num_features) for t in _tensors(norm))
        and norm.num_batches_tracked is not None
        and x.ndim == 4
        and x.shape[1] == norm.num_features
        and x.shape[0] * x.shape[2] * x.shape[3] > 1
        and (residual is None or (residual.dtype, residual.shape, residual.device) == (x.dtype, x.shape, x.device))
        and (residual is None or residual.is_contiguous(memory_format=torch.channels_last))
        and kernels_for(x) is not None
        and not has_hooks(norm)
    )


def _tensors(norm: nn.BatchNorm2d) -> tuple[Tensor | None, ...]:
    return norm.weight, norm.bias, norm.running_mean, norm.running_var


def _is_float_row(tensor: Tensor, channels: int) -> bool:
    """Return whether a tensor is one float32 number a channel, contiguous, on the CPU."""
    return (
        tensor.dtype == torch.float32
        and tensor.shape == (channels,)
        and tensor.is_contiguous()
        and tensor.device.type == "cpu"
    )


class _BatchNorm(torch.autograd.Function):
    """The kernel and its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
        relu: bool,
    ) -> Tensor:
        """Normalise by the batch's statistics, and move the running ones."""
        kernels = library()
        assert kernels is not None
        rows, channels = x.numel() // x.shape[1], x.shape[1]
        y = outputs.empty(x, channels)
        mean, inverse_std = torch.empty_like(weight), torch.empty_like(weight)
        kernels.batch_norm_forward(
            x.dtype == torch.bfloat16,
            *(_pointer(t) for t in (x, residual, y)),
            rows,
            channels,
            *(_pointer(t) for t in (weight, bias, running_mean, running_var)),
            momentum,
            eps,
            *(_pointer(t) for t in (mean, inverse_std)),
            relu,
        )
        # ReLU's mask is computed again from x, unless a residual was added: then it is read off y, which the next
        # convolution keeps anyway.
        ctx.save_for_backward(x, y if residual is not None else None, weight, bias, mean, inverse_std)
        ctx.relu, ctx.eps = relu, eps
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, the residual, weight and bias."""
        if torch.is_grad_enabled() or not usable(gradient):
            return *twice.batch_norm(ctx, gradient), None, None, None, None, None
        x, y, *rows_of_channels = ctx.saved_tensors
        # A hook on saved tensors, such as `save_on_cpu`, gives back the values and not the layout.
        x, gradient = (t.contiguous(memory_format=torch.channels_last) for t in (x, gradient))
        y = None if y is None else y.contiguous(memory_format=torch.channels_last)
        weight, bias, mean, inverse_std = (t.contiguous() for t in rows_of_channels)
        kernels = library()
        assert kernels is not None
        rows, channels = x.numel() // x.shape[1], x.shape[1]
        dx, dweight, dbias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
        masked = torch.empty_like(x) if y is not None else None
        kernels.batch_norm_backward(
            x.dtype == torch.bfloat16,
            *(_pointer(t) for t in (gradient, x, y, masked, dx)),
            rows,
            channels,
            *(_pointer(t) for t in (weight, bias, mean, inverse_std, dweight, dbias)),
            ctx.relu,
        )
        return dx, masked, dweight, dbias, None, None, None, None, None


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
