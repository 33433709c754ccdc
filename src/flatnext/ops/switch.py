"""Turning the kernels off, and the layers that they leave alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import nn
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


def enabled() -> bool:
    """Return whether the kernels may be used here."""
    return _enabled.get()


def has_hooks(layer: nn.Module) -> bool:
    """Return whether hooks on the layer, or on all modules, expect its own forward pass to be called."""
    hooks = (
        *(layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks),
        *(torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks),
        *(torch_module._global_backward_hooks, torch_module._global_backward_pre_hooks),
    )
    return any(hooks)
