"""The grouped 3x3 convolution as Triton kernels for GPUs. They have not been measured on a GPU yet.

Images lie channels-last, so the 16 channels of a few neighbouring groups are a row of a matrix, a pixel each; a product
with a 16 x 16 matrix, zero between the groups, is what a GPU's matrix units do. Pixels are fetched from memory once and
then read from the cache for the nine taps; weights are read in float32, without a copy in bf16.
Imported only where Triton is installed.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from flatnext.ops import twice
from flatnext.ops.switch import usable

PIXELS = 128  # of a program
CHUNK_PIXELS = 32  # taken at a time, for the weight's gradient
WARPS = 4
PROGRAMS = 512  # about as many as keep a GPU busy, for the weight's gradient


@triton.jit
def _convolve_kernel(  # type: ignore[no-untyped-def]
    source,
    weight,
    target,
    pixels,
    height,
    width,
    rows,
    columns,
    channels,
    step_in,
    step_tap,
    group: tl.constexpr,
    stride: tl.constexpr,
    up: tl.constexpr,
    tile: tl.constexpr,
    wide: tl.constexpr,
):
    """Convolve `source` (height x width) into `target` (rows x columns); `up`: gradient of the output, of the input."""
    pixel = tl.program_id(0) * tile + tl.arange(0, tile)
    lane = tl.arange(0, wide)
    first = tl.program_id(1) * wide
    image = pixel // (rows * columns)
    row = pixel // columns % rows
    column = pixel % columns
    same_group = lane[:, None] // group == lane[None, :] // group
    if up:  # a channel of the source is an output of the weight
        taken = (first + lane)[:, None] * (group * 9) + (lane % group)[None, :] * step_in
    else:
        taken = (first + lane)[None, :] * (group * 9) + (lane % group)[:, None] * step_in
    total = tl.zeros((tile, wide), dtype=tl.float32)
    for tap in tl.static_range(9):
        if up:
            y = row + 1 - tap // 3
            x = column + 1 - tap % 3
            inside = (y >= 0) & (x >= 0) & (y % stride == 0) & (x % stride == 0)
            y = y // stride
            x = x // stride
        else:
            y = row * stride + tap // 3 - 1
            x = column * stride + tap % 3 - 1
            inside = (y >= 0) & (x >= 0)
        inside = inside & (y < height) & (x < width) & (pixel < pixels)
        place = ((image * height + y) * width + x)[:, None] * channels + (first + lane)[None, :]
        values = tl.load(source + place, mask=inside[:, None], other=0.0)
        matrix = tl.load(weight + taken + tap * step_tap, mask=same_group, other=0.0).to(values.dtype)
        total += tl.dot(values, matrix, input_precision="ieee")
    place = pixel[:, None] * channels + (first + lane)[None, :]
    tl.store(target + place, total.to(target.dtype.element_ty), mask=(pixel < pixels)[:, None])


@triton.jit
def _weight_kernel(  # type: ignore[no-untyped-def]
    source,
    gradient,
    parts,
    pixels,
    chunk,
    height,
    width,
    rows,
    columns,
    channels,
    group: tl.constexpr,
    stride: tl.constexpr,
    tile: tl.constexpr,
):
    """Write what a chunk of pixels adds to the weight's gradient in 16 channels; columns are (tap, channel)."""
    lane = tl.arange(0, 16)
    entry = tl.arange(0, 256)
    tap = entry // 16
    first = tl.program_id(0) * 16
    total = tl.zeros((16, 256), dtype=tl.float32)
    for start in range(0, chunk, tile):
        pixel = tl.program_id(1) * chunk + start + tl.arange(0, tile)
        image = pixel // (rows * columns)
        y = (pixel // columns % rows * stride - 1)[:, None] + (tap // 3)[None, :]
        x = (pixel % columns * stride - 1)[:, None] + (tap % 3)[None, :]
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width) & (pixel < pixels)[:, None] & (tap < 9)[None, :]
        place = ((image[:, None] * height + y) * width + x) * channels + (first + entry % 16)[None, :]
        values = tl.load(source + place, mask=inside, other=0.0)
        place = pixel[:, None] * channels + (first + lane)[None, :]
        slopes = tl.load(gradient + place, mask=(pixel < pixels)[:, None], other=0.0)
        total += tl.dot(tl.trans(slopes), values, input_precision="ieee")
    in_group = (lane[:, None] // group == (entry % 16)[None, :] // group) & (tap < 9)[None, :]
    place = (tl.program_id(1) * channels + first + lane)[:, None] * (group * 9) + (entry % group * 9 + tap)[None, :]
    tl.store(parts + place, total, mask=in_group)


def convolution(x: Tensor, weight: Tensor, stride: int, groups: int, wide: int = 16) -> Tensor:
    """Return the convolution of `x` (N, C, H, W), channels-last, with `weight` (C, C / groups, 3, 3), padded by 1.

    Groups have 4, 8 or 16 channels; `wide`, 16 or 32, channels are worked on together. Sums are in float32. Both
    gradients are given, the weight's in its own type.
    """
    assert weight.shape[0] == x.shape[1] == weight.shape[1] * groups
    assert x.is_contiguous(memory_format=torch.channels_last)
    return _Convolution.apply(x, weight, stride, wide)


class _Convolution(torch.autograd.Function):
    """The kernels and their gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, wide: int) -> Tensor:
        """Convolve."""
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.wide = stride, wide
        images, channels, height, width = x.shape
        shape = images, channels, (height - 1) // stride + 1, (width - 1) // stride + 1
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        _convolve(x, weight, y, stride, wide, up=False)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and the weight."""
        if torch.is_grad_enabled() or not usable(gradient):
            return *twice.convolution(ctx, gradient), None, None
        x, weight = ctx.saved_tensors
        # A hook on saved tensors, such as `save_on_cpu`, gives back the values and not the layout.
        x, gradient = (t.contiguous(memory_format=torch.channels_last) for t in (x, gradient))
        dx = dweight = None
        if ctx.needs_input_grad[0]:
            dx = torch.empty_like(x)
            _convolve(gradient, weight, dx, ctx.stride, ctx.wide, up=True)
        if ctx.needs_input_grad[1]:
            dweight = _weight_gradient(x, gradient, weight, ctx.stride)
        return dx, dweight, None, None


def _convolve(source: Tensor, weight: Tensor, target: Tensor, stride: int, wide: int, *, up: bool) -> None:
    channels, group = target.shape[1], weight.shape[1]
    if not weight.is_contiguous(memory_format=torch.channels_last):
        weight = weight.contiguous()
    pixels = target.numel() // channels
    _convolve_kernel[(triton.cdiv(pixels, PIXELS), channels // wide)](
        *(source, weight, target, pixels, *source.shape[2:], *target.shape[2:], channels),
        *(weight.stride(1), weight.stride(3)),
        group=group,
        stride=stride,
        up=up,
        tile=PIXELS,
        wide=wide,
        num_warps=WARPS,
    )


def _weight_gradient(x: Tensor, gradient: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Return the gradient of `weight`: the sum over chunks of pixels, always in the same order."""
    channels, group = x.shape[1], weight.shape[1]
    total = gradient.numel() // channels
    chunk = triton.cdiv(triton.cdiv(total, max(PROGRAMS * 16 // channels, 1)), CHUNK_PIXELS) * CHUNK_PIXELS
    chunks = triton.cdiv(total, chunk)
    parts = torch.empty(chunks, channels, group, 3, 3, dtype=torch.float32, device=x.device)
    _weight_kernel[(channels // 16, chunks)](
        *(x, gradient, parts, total, chunk, *x.shape[2:], *gradient.shape[2:], channels),
        group=group,
        stride=stride,
        tile=CHUNK_PIXELS,
        num_warps=WARPS,
    )
    return torch.empty_like(weight).copy_(parts.sum(0))
