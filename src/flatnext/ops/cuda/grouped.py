"""The grouped 3x3 convolution on a GPU, in the form that is measured to be the fastest for its shape.

A GPU has no fast kernel for groups of 4 or 8 channels: its matrix units take 16 at a time. The merged forms put
neighbouring groups together to groups of 16 or 32 channels, whose weight is zero between the old groups. The result is
the same, for more multiplications; parameters and gradients stay those of the grouped convolution. The direct forms are
a Triton kernel (`flatnext.ops.cuda.triton_grouped`). Which form is the fastest depends on the shape, so it is measured
where a shape first occurs. No form but the plain one has been measured on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flatnext.errors import InputError, warn_of_fallback
from flatnext.ops.cuda.timing import cuda_seconds
from flatnext.ops.merge import MergeGroups

FORMS = ("plain", "merged16", "merged32", "direct16", "direct32")
MIN_GAIN = 0.03  # part of the plain form's time that another form must save

_fastest: dict[Hashable, str] = {}
_only: ContextVar[str | None] = ContextVar("flatnext_grouped_form", default=None)


@contextmanager
def only(form: str) -> Iterator[None]:
    """Within the block, use this form wherever it fits, and the plain one elsewhere."""
    if form not in FORMS:
        raise InputError(f"form is {form!r}: choose one of {', '.join(FORMS)}")
    token = _only.set(form)
    try:
        yield
    finally:
        _only.reset(token)


def grouped_conv2d(x: Tensor, weight: Tensor, stride: int, groups: int, form: str | None = None) -> Tensor:
    """Return the convolution of `x` (N, C, H, W) with `weight` (O, C / groups, 3, 3), padded by 1, without a bias.

    `form` is one of `FORMS`; without it, `fastest_form` says which. `InputError`: the form is unknown or does not fit.
    """
    form = fastest_form(x, weight, stride, groups) if form is None else form
    if form not in forms(x, weight, groups):
        raise InputError(f"form is {form!r}: choose one of {', '.join(forms(x, weight, groups))} for this shape")
    if form == "plain":
        return F.conv2d(x, weight, stride=stride, padding=1, groups=groups)
    dtype = _operand_dtype(x)
    if form.startswith("direct"):
        from flatnext.ops.cuda.triton_grouped import convolution

        return convolution(x.to(dtype), weight, stride, groups, int(form.removeprefix("direct")))
    together = int(form.removeprefix("merged")) // weight.shape[1]
    merged = MergeGroups.apply(weight, groups, together, dtype)
    return F.conv2d(x, merged, stride=stride, padding=1, groups=groups // together)


def forms(x: Tensor, weight: Tensor, groups: int) -> list[str]:
    """Return the forms that fit these tensors."""
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]  # of a group
    merged = [
        f"merged{size}"
        for size in (16, 32)
        if outputs == inputs < size and size % inputs == 0 and groups % (size // inputs) == 0
    ]
    direct = [f"direct{wide}" for wide in (16, 32) if outputs == inputs in (4, 8, 16) and x.shape[1] % wide == 0]
    return ["plain", *merged, *(direct if _fits_triton(x) else [])]


def _fits_triton(x: Tensor) -> bool:
    """Return whether the Triton kernel takes `x`. It is slow with 32-bit operands, as its sums are float32."""
    return (
        x.is_cuda
        and x.is_contiguous(memory_format=torch.channels_last)
        and _operand_dtype(x).itemsize == 2
        and x.numel() < 2**31
        and _has_triton()
    )


def fastest_form(
    x: Tensor, weight: Tensor, stride: int, groups: int, seconds: Callable[[Callable[[], Any]], float] | None = None
) -> str:
    """Return the form in which a forward and a backward pass of this shape took the least time on its device.

    Each shape is measured once a process. `seconds` returns the time of a call, by default measured on CUDA. On other
    devices, and while a graph is being recorded, in which nothing can be measured, a shape that is not known has the
    plain form. A form that raises an error is left out with a warning.
    """
    if (wanted := _only.get()) is not None:
        return wanted if wanted in forms(x, weight, groups) else "plain"
    key = (x.device, _operand_dtype(x), x.shape, x.stride(), weight.shape, stride, groups)
    if key in _fastest:
        return _fastest[key]
    if seconds is None:
        if not x.is_cuda or torch.cuda.is_current_stream_capturing():
            return "plain"
        seconds = partial(cuda_seconds, x.device)
    times = _time_forms(x, weight, stride, groups, seconds)
    fastest = min(times, key=times.__getitem__)
    _fastest[key] = fastest if times[fastest] < (1 - MIN_GAIN) * times["plain"] else "plain"
    return _fastest[key]


def _time_forms(
    x: Tensor, weight: Tensor, stride: int, groups: int, seconds: Callable[[Callable[[], Any]], float]
) -> dict[str, float]:
    """Return the seconds of each form that runs."""
    times: dict[str, float] = {}
    for form in forms(x, weight, groups):
        try:
            times[form] = seconds(partial(both_passes, x, weight, stride, groups, form))
        except Exception as error:  # Triton's compiler raises many kinds
            if form == "plain" or isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            reason = str(error).partition("\n")[0]
            warn_of_fallback(f"convolutions do not run in the form {form}, which is left out: {reason}")
    return times


def both_passes(x: Tensor, weight: Tensor, stride: int, groups: int, form: str) -> None:
    """Run the convolution in this form forward and backward."""
    with torch.enable_grad():
        inputs = x.detach().requires_grad_(), weight.detach().requires_grad_()
        y = grouped_conv2d(*inputs, stride, groups, form)
        torch.autograd.grad(y, inputs, torch.empty_like(y))


def _operand_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype that autocast, if it is on, gives a convolution's operands."""
    device_type = x.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else x.dtype


@cache
def _has_triton() -> bool:
    try:
        import triton  # noqa: F401
    except (ImportError, RuntimeError):
        return False
    return True
