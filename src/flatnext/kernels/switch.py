"""Where the kernels may be used at all."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from flatnext.kernels.build import library

LANES = 16  # channels in a vector

_enabled: ContextVar[bool] = ContextVar("flatnext_kernels", default=True)


@contextmanager
def disabled() -> Iterator[None]:
    """Use torch's own operations alone within the block, for instance to differentiate twice."""
    token = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(token)


def kernels_for(x: Tensor) -> ctypes.CDLL | None:
    """Return the kernels if they can work on `x`: channels-last images of bf16 or float32 on the CPU."""
    # What is compiled is asked first: the rest would break its graph.
    if (
        torch.compiler.is_compiling()
        or x.device.type != "cpu"
        or x.dtype not in (torch.bfloat16, torch.float32)
        or x.ndim != 4
        or x.shape[1] % LANES
        or not x.numel()
        or not x.is_contiguous(memory_format=torch.channels_last)
        or not _enabled.get()
        or torch.jit.is_tracing()
        or torch._C._functorch.maybe_current_level() is not None
        or type(x) is not Tensor
    ):
        return None
    return library()


def watched(layer: nn.Module) -> bool:
    """Return whether somebody has hooks on the layer or on all modules, who want its own forward pass to be called."""
    own = layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks
    of_all = (
        *(torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks),
        *(torch_module._global_backward_hooks, torch_module._global_backward_pre_hooks),
    )
    return any(own) or any(of_all)
