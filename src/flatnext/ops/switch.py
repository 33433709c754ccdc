"""Turning the kernels off, and the layers that they leave alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_module

_enabled: ContextVar[bool] = ContextVar("flatnext_ops", default=True)


@contextmanager
def disabled() -> Iterator[None]:
    """Within the block, use torch's own operations alone, for instance to compare with them."""
    token = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(token)


def usable(x: Tensor) -> bool:
    """Return whether kernels, on whatever device, may work on `x` here: else torch has to see its own operations."""
    # First whether torch compiles: the other questions would break its graph.
    return (
        not torch.compiler.is_compiling()
        and _enabled.get()
        and type(x) is Tensor
        and not torch.jit.is_tracing()
        and torch._C._functorch.maybe_current_level() is None
        and not torch._C._functorch.is_legacy_batchedtensor(x)  # of `is_grads_batched`
        and forward_ad._current_level < 0
        and not torch._C._len_torch_dispatch_stack()
    )


def has_hooks(layer: nn.Module) -> bool:
    """Return whether hooks on the layer, or on all modules, expect its own forward pass to be called.

    So does a forward pass that was put in the place of the layer's own.

    A hook before the forward passes of all modules may have a function `needs`, which says whether it needs a layer's.
    """
    hooks = (
        *(layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks),
        *(torch_module._global_forward_hooks, torch_module._global_backward_hooks),
        torch_module._global_backward_pre_hooks,
    )
    before_all = torch_module._global_forward_pre_hooks.values()
    return (
        "forward" in vars(layer)
        or any(hooks)
        or any(not hasattr(hook, "needs") or hook.needs(layer) for hook in before_all)
    )
