"""The 1x1 convolution of a training pass in float32, on a CPU with AVX2 and no AVX-512.

Its gradient by the weights is a product of two matrices, which torch's matrix product takes there in two thirds of the
time of oneDNN's convolution. The rest is oneDNN's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from flatnext.ops.cpu.build import computed_in, kernels_for

LEAST_CHANNELS = 32  # with the three of an image there is nothing to gain


def convolution(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Return ``layer(x)``, (N, C, H, W) to (N, out_channels, H / stride, W / stride), for what `fits`."""
    return _PointwiseConvolution.apply(x, layer.weight, layer.stride[0])


def fits(layer: nn.Conv2d, x: Tensor) -> bool:
    """Return whether this form takes this 1x1 convolution (without padding and bias) and is faster."""
    kernels = kernels_for(x)
    return (
        kernels is not None
        and x.dtype == layer.weight.dtype == computed_in() == torch.float32
        and bool(kernels.has_grouped_convolution(False))  # it is for the same processors
        and layer.in_channels >= LEAST_CHANNELS
    )


class _PointwiseConvolution(torch.autograd.Function):
    """oneDNN's convolution, with another gradient by the weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        """Convolve."""
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return torch.conv2d(x, weight, stride=stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and the weight."""
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        dx = dweight = None
        if ctx.needs_input_grad[0]:
            dx = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, [ctx.stride] * 2, [0, 0], [1, 1], False, [0, 0], 1, [True, False, False]
            )[0]
        if ctx.needs_input_grad[1]:
            dweight = torch.empty_like(weight)
            pixels = _rows(x[:, :, :: ctx.stride, :: ctx.stride])
            torch.mm(_rows(gradient).T, pixels, out=dweight.view(weight.shape[:2]))
        return dx, dweight, None


def _rows(x: Tensor) -> Tensor:
    """Return channels-last (N, C, H, W) as a matrix of (N * H * W, C), without a copy if no pixels are left out."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
