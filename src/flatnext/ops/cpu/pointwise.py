"""The 1x1 convolution in float32, on a CPU with AVX2 and no AVX-512: in training, and with bias, addition and ReLU.

It is a product of matrices, (pixels, in_channels) by (in_channels, out_channels), and its gradients are two more. The
kernel reads ahead from memory while it computes, which oneDNN's convolution does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flatnext.ops import twice
from flatnext.ops.cpu import outputs
from flatnext.ops.cpu.build import LANES, computed_in, kernels_for, library
from flatnext.ops.switch import usable


def convolution(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Return ``layer(x)``, (N, C, H, W) to (N, out_channels, H / stride, W / stride), for what `fits`."""
    return _PointwiseConvolution.apply(x, layer.weight, layer.stride[0])


def fits(layer: nn.Conv2d, x: Tensor) -> bool:
    """Return whether the kernel takes this 1x1 convolution (without padding and bias), and is faster."""
    return computed_in() == torch.float32 and takes(layer.weight, x)


def takes(weight: Tensor, x: Tensor, residual: Tensor | None = None) -> bool:
    """Return whether the kernel takes this weight of a 1x1 convolution without padding, and is faster."""
    kernels = kernels_for(x)
    return (
        kernels is not None
        and bool(kernels.has_pointwise())
        and x.dtype == weight.dtype == torch.float32
        and x.device == weight.device
        and x.shape[1] == weight.shape[1]
        and weight.shape[0] % LANES == 0
        and (residual is None or (residual.dtype == x.dtype and kernels_for(residual) is not None))
    )


def answer(x: Tensor, packed: Tensor, bias: Tensor, stride: int, residual: Tensor | None, *, relu: bool) -> Tensor:
    """Return the convolution with a bias, then an addition and ReLU, without a gradient, for what `takes`.

    `packed` is what `pack` gives. A `residual` (of the output's shape, channels-last) is overwritten, and returned.
    """
    x = _sampled(x, stride)
    y = outputs.empty(x, len(bias)) if residual is None else residual
    _multiply(x, packed, y, bias=bias, add=residual is not None, relu=relu)
    return y


def pack(weight: Tensor, *, up: bool = False) -> Tensor:
    """Return a weight in the order in which the kernel reads it; with `up` that of the gradient of the input."""
    kernels = library()
    assert kernels is not None
    weight = weight.contiguous()  # a view may have gaps
    packed = weight.new_empty(weight.numel())
    depth, columns = weight.shape[:2] if up else (weight.shape[1], weight.shape[0])
    done = kernels.pointwise_pack(weight.data_ptr(), packed.data_ptr(), depth, columns, up)
    assert done
    return packed


class _PointwiseConvolution(torch.autograd.Function):
    """The kernel and its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        """Convolve."""
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        x = _sampled(x, stride)
        y = outputs.empty(x, weight.shape[0])
        _multiply(x, pack(weight), y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and the weight."""
        if torch.is_grad_enabled() or not usable(gradient):
            return *twice.convolution(ctx, gradient), None
        x, weight = ctx.saved_tensors
        # A hook on saved tensors, such as `save_on_cpu`, gives back the values and not the layout.
        x, gradient = (t.contiguous(memory_format=torch.channels_last) for t in (x, gradient))
        dx = dweight = None
        if ctx.needs_input_grad[0]:
            sampled = torch.empty_like(x) if ctx.stride == 1 else outputs.empty(gradient, x.shape[1])
            _multiply(gradient, pack(weight, up=True), sampled)
            dx = sampled
            if ctx.stride != 1:
                dx = torch.zeros_like(x)
                dx[:, :, :: ctx.stride, :: ctx.stride] = sampled
        if ctx.needs_input_grad[1]:
            # The kernel writes row by row. Channels-last strides are that as well, and fused SGD asks for the weight's.
            dweight = torch.empty_like(weight if weight.is_contiguous() else weight.contiguous())
            x = _sampled(x, ctx.stride)
            kernels = library()
            assert kernels is not None
            done = kernels.pointwise_weight_gradient(
                *(t.data_ptr() for t in (x, gradient, dweight)), _pixels(x), x.shape[1], gradient.shape[1]
            )
            assert done
        return dx, dweight, None


def _sampled(x: Tensor, stride: int) -> Tensor:
    """Return the pixels that the convolution sees, channels-last; `x` itself if it sees all."""
    return x if stride == 1 else x[:, :, ::stride, ::stride].contiguous(memory_format=torch.channels_last)


def _multiply(
    x: Tensor, packed: Tensor, y: Tensor, *, bias: Tensor | None = None, add: bool = False, relu: bool = False
) -> None:
    """Convolve `x` into `y`, or `add` to what it has."""
    kernels = library()
    assert kernels is not None
    done = kernels.pointwise_convolution(
        *(None if t is None else t.data_ptr() for t in (x, packed, bias, y)),
        _pixels(x),
        x.shape[1],
        y.shape[1],
        add,
        relu,
    )
    assert done


def _pixels(x: Tensor) -> int:
    return x.numel() // x.shape[1]
