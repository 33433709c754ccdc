"""The layers that have a faster form in training, and where each form is used."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatnext.ops.cpu import grouped as cpu_grouped
from flatnext.ops.cpu import norm as cpu_norm
from flatnext.ops.cpu import pointwise as cpu_pointwise
from flatnext.ops.cuda.grouped import grouped_conv2d
from flatnext.ops.switch import has_hooks, usable


def batch_norm(norm: nn.BatchNorm2d, x: Tensor, residual: Tensor | None = None, *, relu: bool = True) -> Tensor:
    """Return ``relu(norm(x) + residual)``, all of (N, C, H, W), in the type of `x`; the running statistics are updated.

    On a CPU one kernel does all three in training.
    """
    if cpu_norm.fits(norm, x, residual):
        return cpu_norm.batch_norm(norm, x, residual, relu=relu)
    y = norm(x)
    if residual is not None:
        y = y + residual
    return F.relu(y) if relu else y


def grouped_convolution(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Return ``layer(x)`` for a grouped 3x3 convolution, in training in the form that is the fastest on the device."""
    if not (usable(x) and torch.is_grad_enabled() and layer.training and has_common_form(layer)):
        return layer(x)
    if x.ndim != 4 or x.shape[1] != layer.in_channels:  # layer() raises the error; a kernel would not notice
        return layer(x)
    if x.is_cuda:
        return grouped_conv2d(x, layer.weight, layer.stride[0], layer.groups)
    return cpu_grouped.convolution(layer, x) if cpu_grouped.fits(layer, x) else layer(x)


def pointwise_convolution(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Return ``layer(x)`` for a 1x1 convolution, in training in the form that is the fastest on the device."""
    if not (usable(x) and torch.is_grad_enabled() and layer.training and is_pointwise(layer)):
        return layer(x)
    if x.ndim != 4 or x.shape[1] != layer.in_channels or not cpu_pointwise.fits(layer, x):
        return layer(x)
    return cpu_pointwise.convolution(layer, x)


def is_pointwise(layer: nn.Module) -> bool:
    """Return whether the layer is a 1x1 convolution without groups, padding and bias, and has no hooks."""
    return (
        type(layer) is nn.Conv2d
        and layer.kernel_size == (1, 1)
        and layer.padding == (0, 0)
        and layer.stride in ((1, 1), (2, 2))
        and layer.groups == 1
        and layer.bias is None
        and not has_hooks(layer)
    )


def has_common_form(layer: nn.Module) -> bool:
    """Return whether the layer is a grouped 3x3 convolution, padded by 1, without a bias, and has no hooks."""
    return (
        type(layer) is nn.Conv2d  # a subclass may do something else
        and layer.kernel_size == (3, 3)
        and layer.padding == (1, 1)
        and layer.dilation == (1, 1)
        and layer.stride in ((1, 1), (2, 2))
        and layer.groups > 1
        and layer.bias is None
        and layer.padding_mode == "zeros"
        and not has_hooks(layer)
    )
