"""The network for small images, of any block and any widths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from flatnext.errors import InputError
from flatnext.ops import batch_norm


class BlockClass(Protocol):
    """A class of residual blocks. A block maps (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""

    expansion: int  # output channels divided by the width
    preactivated: bool  # whether batch norm and ReLU come before a convolution, not after it

    def __call__(
        self, in_channels: int, width: int, out_channels: int, stride: int, groups: int, padded: bool = ...
    ) -> nn.Module:
        """Return a block; `padded`: its shortcut is a `PaddedShortcut`."""


def constant_widths(blocks: Sequence[int], width: int) -> list[list[int]]:
    """Return the width of each block of each stage: `width` in all of the first stage, doubled from stage to stage."""
    return [[width * 2**index] * count for index, count in enumerate(blocks)]


def pyramid_widths(blocks: Sequence[int], width: int, alpha: int, multiple: int) -> list[list[int]]:
    """Return the width of each block of each stage as in PyramidNet (arXiv 1610.02915, equation 3).

    Block k of K, counted from 1 through all stages, has `width + alpha * k / K`, rounded down to a multiple of
    `multiple`.
    """
    total, result, number = sum(blocks), [], 0
    for count in blocks:
        numbers = range(number + 1, number + count + 1)
        result.append([(width * total + alpha * k) // (total * multiple) * multiple for k in numbers])
        number += count
    return result


class Network(nn.Module):
    """A stem, stages of residual blocks, global average pooling and a linear layer.

    Each stage after the first halves the image, so the sides of an image must be divisible by 2 ** (stages - 1).

    Args:
        block: the class of its blocks.
        widths: the width of each block of each stage.
        groups: groups of the blocks' 3x3 convolutions.
        stem: channels of the stem.
        classes: outputs of the linear layer.
        stem_kernel: pixels a side of the stem's convolution, an odd number; it is padded.
        padded: shortcuts have no parameters (`PaddedShortcut`).
        channels: of the images: 3, or 1 for grey ones.
    """

    def __init__(
        self,
        block: BlockClass,
        widths: Sequence[Sequence[int]],
        groups: int,
        stem: int,
        classes: int,
        *,
        stem_kernel: int = 1,
        padded: bool = False,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.preactivated = block.preactivated
        self.downsampling = 2 ** (len(widths) - 1)
        self.stages = [f"layer{index + 1}" for index in range(len(widths))]
        self.conv1 = nn.Conv2d(channels, stem, stem_kernel, padding=stem_kernel // 2, bias=False)
        if not self.preactivated:
            self.bn1 = nn.BatchNorm2d(stem)
        width_in = stem
        for index, name in enumerate(self.stages):
            layer = nn.Sequential()
            for number, width in enumerate(widths[index]):
                stride = 2 if index and not number else 1
                layer.append(block(width_in, width, block.expansion * width, stride, groups, padded))
                width_in = block.expansion * width
            self.add_module(name, layer)
        if self.preactivated:
            self.bn = nn.BatchNorm2d(width_in)
        self.linear = nn.Linear(width_in, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N, C, H, W) to logits (N, classes). `InputError`: bytes; H or W is not divisible."""
        x = self.features(images)
        # Pooled features and logits stay out of autocast: in bf16 about one image in 200 has two equal top logits.
        pooled = x.mean((2, 3), dtype=self.linear.weight.dtype)
        with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
            return self.linear(pooled)

    def features(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W) to what is pooled: (N, channels, H / downsampling, W / downsampling)."""
        if not images.is_floating_point():
            raise InputError(
                f"images are {images.dtype}: normalise them, by pretrained_info(name).normalize(images), "
                "or use flatnext.load(name).predict(images)"
            )
        height, width = images.shape[-2:]
        if height % self.downsampling or width % self.downsampling:
            raise InputError(f"image size is {height}x{width}: give sides that are multiples of {self.downsampling}")
        x = self.conv1(images)
        if not self.preactivated:
            x = batch_norm(self.bn1, x)
        for name in self.stages:
            x = getattr(self, name)(x)
        return batch_norm(self.bn, x) if self.preactivated else x
