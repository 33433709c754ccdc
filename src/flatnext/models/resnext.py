"""ResNeXt for small images (Xie et al., arXiv 1611.05431), as the baseline paper modified it.

Submodule names and the order of construction are those of the baseline's code, so that its checkpoints load and a
seed gives the same initial weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from flatnext.models.network import Network, constant_widths
from flatnext.models.shortcut import PaddedShortcut, Shortcut
from flatnext.ops import batch_norm, grouped_convolution, pointwise_convolution


class Block(nn.Module):
    """A residual bottleneck: 1x1 to `width` channels, 3x3 in `groups` groups with the stride, 1x1 to `out_channels`."""

    expansion: ClassVar[int] = 2
    preactivated: ClassVar[bool] = False
    shortcut_name: ClassVar[str] = "shortcut"

    def __init__(
        self, in_channels: int, width: int, out_channels: int, stride: int, groups: int, padded: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        shortcut = (PaddedShortcut if padded else Shortcut)(in_channels, out_channels, stride)
        self.add_module(self.shortcut_name, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        y = batch_norm(self.bn1, pointwise_convolution(self.conv1, x))
        y = batch_norm(self.bn2, grouped_convolution(self.conv2, y))
        return batch_norm(self.bn3, pointwise_convolution(self.conv3, y), residual=getattr(self, self.shortcut_name)(x))


class ResNeXt(Network):
    """A stem, stages of bottleneck blocks, global average pooling and a linear layer.

    Each stage after the first halves the image and doubles the width, so the sides of an image must be divisible by
    2 ** (stages - 1). A block's output has twice the channels of its 3x3 convolution.

    Args:
        blocks: number of blocks in each stage.
        cardinality: groups of the 3x3 convolutions.
        bottleneck_width: channels in a group, in the first stage.
        stem: channels of the stem, a 1x1 convolution.
        classes: outputs of the linear layer.
    """

    def __init__(
        self,
        blocks: Sequence[int] = (3, 3, 3),
        cardinality: int = 32,
        bottleneck_width: int = 4,
        stem: int = 32,
        classes: int = 10,
    ) -> None:
        super().__init__(Block, constant_widths(blocks, cardinality * bottleneck_width), cardinality, stem, classes)


def resnext29(classes: int = 10) -> ResNeXt:
    """Return the baseline's ResNeXt-29 (32x4d): 4,761,770 parameters for 10 classes."""
    return ResNeXt(classes=classes)
