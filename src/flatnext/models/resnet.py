"""The blocks of plain ResNets, of two 3x3 convolutions each."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from flatnext.models.shortcut import PaddedShortcut, Shortcut
from flatnext.ops import batch_norm


class BasicBlock(nn.Module):
    """Two 3x3 convolutions of `width` channels, the first with the stride (He et al., arXiv 1512.03385).

    The shortcut is a 1x1 convolution and a batch norm where the shape changes (their option B). `groups` must be 1 and
    `out_channels` must be `width`.
    """

    expansion: ClassVar[int] = 1
    preactivated: ClassVar[bool] = False

    def __init__(
        self, in_channels: int, width: int, out_channels: int, stride: int, groups: int = 1, padded: bool = False
    ) -> None:
        super().__init__()
        assert groups == 1
        assert out_channels == width
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = (PaddedShortcut if padded else Shortcut)(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, width, H / stride, W / stride)."""
        y = batch_norm(self.bn1, self.conv1(x))
        return batch_norm(self.bn2, self.conv2(y), residual=self.shortcut(x))


class PreActBlock(nn.Module):
    """`BasicBlock` with batch norm and ReLU before each convolution (He et al., arXiv 1603.05027).

    Where the shape changes, the shortcut is a 1x1 convolution of the first convolution's input; if `padded`, it is
    the block's input, padded.
    """

    expansion: ClassVar[int] = 1
    preactivated: ClassVar[bool] = True

    def __init__(
        self, in_channels: int, width: int, out_channels: int, stride: int, groups: int = 1, padded: bool = False
    ) -> None:
        super().__init__()
        assert groups == 1
        assert out_channels == width
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.projects = not padded and (stride != 1 or in_channels != width)
        self.shortcut: nn.Module = PaddedShortcut(in_channels, width, stride) if padded else nn.Sequential()
        if self.projects:
            self.shortcut = nn.Conv2d(in_channels, width, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, width, H / stride, W / stride)."""
        active = batch_norm(self.bn1, x)
        y = self.conv2(batch_norm(self.bn2, self.conv1(active)))
        return y + self.shortcut(active if self.projects else x)
