"""ResNet-50 and ResNeXt-50 (32x4d) for ImageNet: the two columns of the report's Table 1 (arXiv 1611.05431, Table 1).

Submodule names are torchvision's. Downsampling is in the 3x3 convolutions, as in the report's own model.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from flatnext.models.resnext import Block


class Bottleneck(Block):
    """`Block` with torchvision's name for the shortcut."""

    shortcut_name: ClassVar[str] = "downsample"


def stage(in_channels: int, width: int, out_channels: int, *, count: int, stride: int, groups: int) -> nn.Sequential:
    """Return `count` blocks in a row, of which the first changes the number of channels and takes the stride."""
    first = Bottleneck(in_channels, width, out_channels, stride, groups)
    return nn.Sequential(first, *(Bottleneck(out_channels, width, out_channels, 1, groups) for _ in range(count - 1)))


class ResNet50(nn.Module):
    """Four stages of 3, 4, 6 and 3 bottlenecks; the first stage gives 256 channels, and each next one doubles them.

    Args:
        width: channels of the 3x3 convolutions in the first stage.
        groups: their groups.
        classes: outputs of the linear layer.
    """

    blocks: ClassVar[tuple[int, ...]] = (3, 4, 6, 3)

    def __init__(self, width: int, groups: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = 64
        for index, count in enumerate(self.blocks):
            out_channels, stride = 256 * 2**index, 1 if index == 0 else 2
            layer = stage(channels, width * 2**index, out_channels, count=count, stride=stride, groups=groups)
            self.add_module(f"layer{index + 1}", layer)
            channels = out_channels
        self.fc = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, classes)."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        for index in range(len(self.blocks)):
            x = getattr(self, f"layer{index + 1}")(x)
        return self.fc(x.mean((2, 3)))


def resnet50(classes: int = 1000) -> ResNet50:
    """Return ResNet-50: 25,557,032 parameters for 1000 classes."""
    return ResNet50(width=64, groups=1, classes=classes)


def resnext50_32x4d(classes: int = 1000) -> ResNet50:
    """Return ResNeXt-50 with 32 groups of 4 channels: 25,028,904 parameters for 1000 classes."""
    return ResNet50(width=128, groups=32, classes=classes)
