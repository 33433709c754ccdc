"""The shortcuts of residual blocks."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from flatnext.errors import InputError
from flatnext.ops import batch_norm, pointwise_convolution


class Shortcut(nn.Sequential):
    """The identity, or a 1x1 convolution with the stride and a batch norm where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        if stride != 1 or in_channels != out_channels:
            self.append(nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False))
            self.append(nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        if not len(self):
            return x
        convolution, norm = self
        return batch_norm(
            cast(nn.BatchNorm2d, norm), pointwise_convolution(cast(nn.Conv2d, convolution), x), relu=False
        )


class PaddedShortcut(nn.Module):
    """The identity with channels of zeros added, after averaging squares of `stride` pixels a side.

    It has no parameters. This is the shortcut of PyramidNet (Han et al., arXiv 1610.02915), whose every block adds
    channels. `InputError`: there are more channels before than after.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride, self.added = stride, out_channels - in_channels
        if self.added < 0:
            raise InputError(
                f"widths pyramid cannot pad {in_channels} channels to {out_channels}: lower stem to {out_channels}"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        if self.stride != 1:
            x = F.avg_pool2d(x, self.stride)
        return F.pad(x, (0, 0, 0, 0, 0, self.added)) if self.added else x
