"""ResNeXt for small images (Xie et al., arXiv 1611.05431), as the report modified it.

Submodule names and the order of construction are those of the report's code, so that its checkpoints load and a seed
gives the same initial weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from flatnext.errors import InputError
from flatnext.kernels import batch_norm, grouped_convolution


class Block(nn.Module):
    """A residual bottleneck: 1x1 to `width` channels, 3x3 in `groups` groups with the stride, 1x1 to `out_channels`.

    The shortcut is the identity, or a 1x1 convolution and a batch norm where the shape changes.
    """

    shortcut_name: ClassVar[str] = "shortcut"

    def __init__(self, in_channels: int, width: int, out_channels: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            shortcut.append(nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False))
            shortcut.append(nn.BatchNorm2d(out_channels))
        self.add_module(self.shortcut_name, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        y = batch_norm(self.bn1, self.conv1(x))
        y = batch_norm(self.bn2, grouped_convolution(self.conv2, y))
        shortcut = getattr(self, self.shortcut_name)
        if len(shortcut):
            convolution, norm = shortcut
            x = batch_norm(norm, convolution(x), relu=False)
        return batch_norm(self.bn3, self.conv3(y), residual=x)


def stage(
    block: type[Block], in_channels: int, width: int, out_channels: int, *, count: int, stride: int, groups: int
) -> nn.Sequential:
    """Return `count` blocks in a row, of which the first changes the number of channels and takes the stride."""
    first = block(in_channels, width, out_channels, stride, groups)
    return nn.Sequential(first, *(block(out_channels, width, out_channels, 1, groups) for _ in range(count - 1)))


class ResNeXt(nn.Module):
    """A 1x1 stem, stages of bottleneck blocks, global average pooling and a linear layer.

    Each stage after the first halves the image and doubles the width, so the sides of an image must be divisible by
    2 ** (stages - 1). A block's output has twice the channels of its 3x3 convolution.

    Args:
        blocks: number of blocks in each stage.
        cardinality: groups of the 3x3 convolutions.
        bottleneck_width: channels in a group, in the first stage.
        stem: channels of the stem.
        classes: outputs of the linear layer.
    """

    expansion: ClassVar[int] = 2

    def __init__(
        self,
        blocks: Sequence[int] = (3, 3, 3),
        cardinality: int = 32,
        bottleneck_width: int = 4,
        stem: int = 32,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.downsampling = 2 ** (len(blocks) - 1)
        self.stages = [f"layer{index + 1}" for index in range(len(blocks))]
        channels = stem
        for index, count in enumerate(blocks):
            width = cardinality * bottleneck_width * 2**index
            out_channels = self.expansion * width
            stride = 1 if index == 0 else 2
            layer = stage(Block, channels, width, out_channels, count=count, stride=stride, groups=cardinality)
            self.add_module(self.stages[index], layer)
            channels = out_channels
        self.linear = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, classes). `InputError`: H or W is not divisible."""
        height, width = images.shape[-2:]
        if height % self.downsampling or width % self.downsampling:
            raise InputError(f"image size is {height}x{width}: give sides that are multiples of {self.downsampling}")
        x = batch_norm(self.bn1, self.conv1(images))
        for name in self.stages:
            x = getattr(self, name)(x)
        # Pooled features and logits stay out of autocast: in bf16 about one image in 200 has two equal top logits.
        pooled = x.mean((2, 3), dtype=self.linear.weight.dtype)
        with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
            return self.linear(pooled)


def resnext29(classes: int = 10) -> ResNeXt:
    """Return the report's ResNeXt-29 (32x4d): 4,761,770 parameters for 10 classes."""
    return ResNeXt(classes=classes)
