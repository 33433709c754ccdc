"""Selective kernels (Li et al., arXiv 1903.06586): each channel of each image weighs two sizes of receptive field."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from flatnext.errors import InputError
from flatnext.models.shortcut import PaddedShortcut, Shortcut
from flatnext.ops import batch_norm, grouped_convolution, pointwise_convolution

REDUCTION = 16  # the paper's r
LEAST_HIDDEN = 32  # its L


class SelectiveKernel(nn.Module):
    """A 3x3 and a dilated 3x3 convolution, which covers 5x5, in `groups` groups, combined by attention.

    Both are followed by batch norm and ReLU. Their sum, averaged over the pixels, goes through a layer of
    max(channels / 16, 32) units with batch norm and ReLU (fuse), then a linear layer, and a softmax over the two gives
    the weights of each channel (select).
    """

    def __init__(self, channels: int, stride: int, groups: int) -> None:
        super().__init__()
        hidden = max(channels // REDUCTION, LEAST_HIDDEN)
        self.conv1 = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=2, dilation=2, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.fuse = nn.Conv2d(channels, hidden, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(hidden)
        self.select = nn.Conv2d(hidden, 2 * channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H / stride, W / stride). `InputError`: one image alone, in training."""
        if self.training and len(x) == 1:
            raise InputError(
                "block sk cannot train on a batch of one image: change batch_size, grad_accum_steps or the data"
            )
        narrow = batch_norm(self.bn1, grouped_convolution(self.conv1, x))
        wide = batch_norm(self.bn2, grouped_convolution(self.conv2, x))
        hidden = batch_norm(self.bn3, self.fuse((narrow + wide).mean((2, 3), keepdim=True)))
        weights = self.select(hidden).unflatten(1, (2, -1)).softmax(1)
        return torch.lerp(wide, narrow, weights[:, 0].to(narrow.dtype))  # the two weights add up to 1


class SelectiveKernelBlock(nn.Module):
    """A residual bottleneck: 1x1 to `width` channels, a `SelectiveKernel` with the stride, 1x1 to `out_channels`."""

    expansion: ClassVar[int] = 2
    preactivated: ClassVar[bool] = False

    def __init__(
        self, in_channels: int, width: int, out_channels: int, stride: int, groups: int, padded: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = SelectiveKernel(width, stride, groups)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = (PaddedShortcut if padded else Shortcut)(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        y = self.conv2(batch_norm(self.bn1, pointwise_convolution(self.conv1, x)))
        return batch_norm(self.bn3, pointwise_convolution(self.conv3, y), residual=self.shortcut(x))
