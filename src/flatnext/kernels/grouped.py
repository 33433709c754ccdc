"""The grouped 3x3 convolution in forms that a device runs at different speeds.

A CPU has one kernel of our own (`flatnext.kernels.grouped_cpu`).

A GPU has no fast kernel for groups of 4 or 8 channels: its matrix units take 16 at a time. In the merged form
neighbouring groups make one group of 16 or 32 channels whose weight is zero between the old groups. The result is the
same, for more multiplications; parameters and gradients stay those of the grouped convolution. The direct form is a
kernel of our own (`flatnext.kernels.grouped_triton`). Which form is the fastest depends on the shape, so on a GPU it is
measured where a shape first occurs.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from flatnext.errors import InputError
from flatnext.kernels import grouped_cpu
from flatnext.kernels.switch import watched

FORMS = ("plain", "merged16", "merged32", "direct16", "direct32")
LEAST_GAIN = 0.03  # part of the plain form's time by which another must be faster

_chosen: dict[Hashable, str] = {}
_only: ContextVar[str | None] = ContextVar("flatnext_grouped_form", default=None)


@contextmanager
def only(form: str) -> Iterator[None]:
    """Within the block, take this form wherever it fits, and the plain one elsewhere: to measure, or to be sure."""
    if form not in FORMS:
        raise InputError(f"form is {form!r}: choose one of {', '.join(FORMS)}")
    token = _only.set(form)
    try:
        yield
    finally:
        _only.reset(token)


def grouped_convolution(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Return ``layer(x)`` for a grouped 3x3 convolution, in training in the form that is the fastest on the device."""
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and layer.training and _is_common(layer)):
        return layer(x)
    if x.ndim != 4 or x.shape[1] != layer.in_channels:  # layer() says what is wrong, which a kernel would not see
        return layer(x)
    if x.is_cuda:
        return grouped_conv2d(x, layer.weight, layer.stride[0], layer.groups)
    return grouped_cpu.convolution(layer, x) if grouped_cpu.fits(layer, x) else layer(x)


def grouped_conv2d(x: Tensor, weight: Tensor, stride: int, groups: int, form: str | None = None) -> Tensor:
    """Return the convolution of `x` (N, C, H, W) with `weight` (O, C / groups, 3, 3), padded by 1, without a bias.

    `form` is one of `FORMS`; without it, `choose` says which. `InputError`: the form is unknown or does not fit.
    """
    form = choose(x, weight, stride, groups) if form is None else form
    if form not in forms(x, weight, groups):
        raise InputError(f"form is {form!r}: choose one of {', '.join(forms(x, weight, groups))} for this shape")
    if form == "plain":
        return F.conv2d(x, weight, stride=stride, padding=1, groups=groups)
    kind = _operand_type(x)
    if form.startswith("direct"):
        from flatnext.kernels.grouped_triton import convolution

        return convolution(x.to(kind), weight, stride, groups, int(form.removeprefix("direct")))
    together = int(form.removeprefix("merged")) // weight.shape[1]
    merged = _Merge.apply(weight, groups, together, kind)
    return F.conv2d(x, merged, stride=stride, padding=1, groups=groups // together)


def forms(x: Tensor, weight: Tensor, groups: int) -> list[str]:
    """Return the forms that fit these tensors."""
    outputs, group = weight.shape[0] // groups, weight.shape[1]
    found = ["plain"]
    for size in (16, 32):
        together = size // group
        if outputs == group < size and size % group == 0 and groups % together == 0:
            found.append(f"merged{size}")
    last = x.is_cuda and x.is_contiguous(memory_format=torch.channels_last)
    # The kernels of our own are for 16 bits: they add up in float32, and with operands of 32 bits they are slow.
    if last and _operand_type(x).itemsize == 2 and x.numel() < 2**31 and _has_triton():
        fitting = (wide for wide in (16, 32) if outputs == group in (4, 8, 16) and x.shape[1] % wide == 0)
        found += [f"direct{wide}" for wide in fitting]
    return found


def choose(
    x: Tensor, weight: Tensor, stride: int, groups: int, seconds: Callable[[Callable[[], Any]], float] | None = None
) -> str:
    """Return the form in which a forward and a backward pass of this shape took the least time on its device.

    Measured once a shape and process; `seconds` measures a piece of work, by default on CUDA. Elsewhere, and while a
    graph is being recorded, in which nothing can be measured, a shape that is not known has the plain form. A form that
    does not run there is left out.
    """
    if (wanted := _only.get()) is not None:
        return wanted if wanted in forms(x, weight, groups) else "plain"
    key = (x.device, _operand_type(x), x.shape, x.stride(), weight.shape, stride, groups)
    if key in _chosen:
        return _chosen[key]
    if seconds is None:
        if not x.is_cuda or torch.cuda.is_current_stream_capturing():
            return "plain"
        seconds = partial(cuda_seconds, x.device)
    times: dict[str, float] = {}
    for form in forms(x, weight, groups):
        try:
            times[form] = seconds(partial(_both_passes, x, weight, stride, groups, form))
        except Exception as error:  # Triton's compiler raises many kinds
            if form == "plain" or isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            reason = str(error).partition("\n")[0]
            warnings.warn(f"convolutions do not run in the form {form}, which is left out: {reason}", stacklevel=2)
    fastest = min(times, key=times.__getitem__)
    _chosen[key] = fastest if times[fastest] < (1 - LEAST_GAIN) * times["plain"] else "plain"
    return _chosen[key]


def _both_passes(x: Tensor, weight: Tensor, stride: int, groups: int, form: str) -> None:
    with torch.enable_grad():
        inputs = x.detach().requires_grad_(), weight.detach().requires_grad_()
        y = grouped_conv2d(*inputs, stride, groups, form)
        torch.autograd.grad(y, inputs, torch.empty_like(y))


def cuda_seconds(device: torch.device, work: Callable[[], Any], repeats: int = 10, rounds: int = 5) -> float:
    """Return the median seconds of some work on the GPU, recorded as a graph: launching it takes longer than it."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with torch.cuda.device(device):
            replay = _recorded(work, repeats)
            return statistics.median([_timed(replay) / repeats for _ in range(rounds + 1)][1:])
    finally:
        torch.set_autocast_cache_enabled(before)


def _recorded(work: Callable[[], Any], repeats: int) -> Callable[[], None]:
    """Return what does the work several times over, without the host."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(repeats):
            work()
    return graph.replay


def _timed(work: Callable[[], None]) -> float:
    """Return the seconds of some work between two events on the GPU."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


class _Merge(torch.autograd.Function):
    """The weight of a grouped convolution as that of one with fewer, wider groups; its gradient is the blocks' own."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, groups: int, together: int, kind: torch.dtype) -> Tensor:
        """Return (O, C / groups * together, 3, 3) of type `kind`, zero between the groups that are put together."""
        ctx.sizes = groups, together
        ctx.weight = weight.shape, weight.stride(), weight.dtype
        outputs, group, *kernel = weight.shape
        shape = outputs, group * together, *kernel
        merged = torch.empty(shape, dtype=kind, device=weight.device, memory_format=torch.channels_last).zero_()
        _blocks(merged, groups, together).copy_(_by_group(weight, groups, together))
        return merged

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the grouped weight, in its layout."""
        shape, stride, kind = ctx.weight
        own = torch.empty_strided(shape, stride, dtype=kind, device=gradient.device)
        _by_group(own, *ctx.sizes).copy_(_blocks(gradient, *ctx.sizes))
        return own, None, None, None


def _by_group(weight: Tensor, groups: int, together: int) -> Tensor:
    """View (O, c, 3, 3) as (groups / together, outputs of a group, c, 3, 3, together)."""
    return weight.unflatten(0, (groups // together, together, -1)).movedim(1, -1)


def _blocks(merged: Tensor, groups: int, together: int) -> Tensor:
    """View the blocks on the diagonal of (O, c * together, 3, 3) as `_by_group` has them."""
    parts = merged.unflatten(1, (together, -1)).unflatten(0, (groups // together, together, -1))
    return parts.diagonal(dim1=1, dim2=3)


def _operand_type(x: Tensor) -> torch.dtype:
    """Return the type that autocast, if it is on, gives a convolution's operands."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _is_common(layer: nn.Conv2d) -> bool:
    """Return whether the layer is a convolution as `grouped_conv2d` has it, and nobody wants to see its calls."""
    return (
        type(layer) is nn.Conv2d  # what else stands in its place may do other things
        and layer.kernel_size == (3, 3)
        and layer.padding == (1, 1)
        and layer.dilation == (1, 1)
        and layer.stride in ((1, 1), (2, 2))
        and layer.groups > 1
        and layer.bias is None
        and layer.padding_mode == "zeros"
        and not watched(layer)
    )


@cache
def _has_triton() -> bool:
    try:
        import triton  # noqa: F401
    except (ImportError, RuntimeError):
        return False
    return True
