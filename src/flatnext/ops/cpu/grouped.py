"""The grouped 3x3 convolution: in bf16 on a CPU with AVX-512 BF16, in float32 on one with AVX2.

The kernels are for groups of 4, 8 or 16 channels with as many outputs as inputs. They sum in float32, as oneDNN does,
whose grouped convolution leaves most of a vector unused where it is wider than a group.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flatnext.ops import twice
from flatnext.ops.cpu import outputs
from flatnext.ops.cpu.build import computed_in, kernels_for, library
from flatnext.ops.switch import usable

SHAPES = {(group, stride) for group in (4, 8, 16) for stride in (1, 2)}  # (channels of a group, stride)
FASTER = {
    (torch.bfloat16, 16): SHAPES - {(16, 1)},
    (torch.float32, 8): SHAPES,
    (torch.float32, 16): {(4, 1), (4, 2)},
}
"""The shapes for which the kernel is faster than oneDNN's, by type and by how many numbers a vector has."""


def convolution(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Return ``layer(x)`` in the type of `x`: (N, C, H, W) to (N, C, H / stride, W / stride), for what `fits`."""
    return _GroupedConvolution.apply(x, layer.weight, layer.stride[0])


def fits(layer: nn.Conv2d, x: Tensor) -> bool:
    """Return whether the kernel takes this 3x3 convolution (padded by 1, without a bias) and is faster."""
    return x.dtype == computed_in() and takes(layer.weight, x, layer.stride[0])


def takes(weight: Tensor, x: Tensor, stride: int) -> bool:
    """Return whether the kernel takes this weight of a 3x3 convolution, padded by 1, and is faster."""
    kernels = kernels_for(x)
    return (
        kernels is not None
        and (weight.shape[1], stride) in FASTER.get((x.dtype, kernels.grouped_lanes(x.dtype == torch.bfloat16)), ())
        and weight.dtype == torch.float32
        and weight.device == x.device
        and x.shape[1] == weight.shape[0]
        and x.shape[2] % stride == x.shape[3] % stride == 0
    )


def answer(x: Tensor, weight: Tensor, bias: Tensor, stride: int, *, relu: bool) -> Tensor:
    """Return the convolution of float32 `x` with a bias and ReLU, without a gradient, for what `takes`."""
    y = outputs.empty(x, x.shape[1], stride)
    _convolve(x, weight, y, stride, up=False, bias=bias, relu=relu)
    return y


class _GroupedConvolution(torch.autograd.Function):
    """The kernel and its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        """Convolve."""
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        y = outputs.empty(x, x.shape[1], stride)
        _convolve(x, weight, y, stride, up=False)
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
            dx = torch.empty_like(x)
            _convolve(gradient, weight, dx, ctx.stride, up=True)
        if ctx.needs_input_grad[1]:
            dweight = torch.empty_like(weight, memory_format=torch.contiguous_format)
            kernels = library()
            assert kernels is not None
            done = kernels.grouped_weight_gradient(
                x.dtype == torch.bfloat16,
                *(t.data_ptr() for t in (x, gradient, dweight)),
                *_sizes(x, gradient),
                weight.shape[1],
                ctx.stride,
            )
            assert done
        return dx, dweight, None


def _convolve(
    source: Tensor,
    weight: Tensor,
    target: Tensor,
    stride: int,
    *,
    up: bool,
    bias: Tensor | None = None,
    relu: bool = False,
) -> None:
    """Convolve `source` into `target`, or with `up` the gradient of an output into that of its input."""
    kernels = library()
    assert kernels is not None
    weight = weight.contiguous()  # channels-last strides of (out, in, 3, 3) are others
    done = kernels.grouped_convolution(
        source.dtype == torch.bfloat16,
        *(None if t is None else t.data_ptr() for t in (source, weight, bias, target)),
        *_sizes(source, target),
        weight.shape[1],
        stride,
        up,
        relu,
    )
    assert done


def _sizes(source: Tensor, target: Tensor) -> tuple[int, ...]:
    return source.shape[0], *source.shape[2:], *target.shape[2:], source.shape[1]
