"""ResNet-50 and ResNeXt-50 (32x4d) for ImageNet, and the table that compares them: Table 1 of the baseline paper.

They are those of arXiv 1611.05431, Table 1, with torchvision's names of submodules. Downsampling is in the 3x3
convolutions, as in the baseline's ResNeXt-29.
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatnext.models.resnext import Block
from flatnext.models.summary import summarize, trace

IMAGE_SIZE = 224


class Bottleneck(Block):
    """`Block` with torchvision's name for the shortcut."""

    shortcut_name: ClassVar[str] = "downsample"


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
            layer = nn.Sequential()
            for number in range(count):
                stride = 2 if index and not number else 1
                layer.append(Bottleneck(channels, width * 2**index, 256 * 2**index, stride, groups))
                channels = 256 * 2**index
            self.add_module(f"layer{index + 1}", layer)
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


def table1() -> str:
    """Return Table 1 of the baseline paper as text: ResNet-50 beside ResNeXt-50 (32x4d) at 224x224."""
    with torch.device("meta"):
        models = {"ResNet-50": resnet50(), "ResNeXt-50 (32x4d)": resnext50_32x4d()}
    lines = [_line("stage", "output", *models)]
    for (stage, output, left), (_, _, right) in zip(*map(_column, models.values()), strict=True):
        lines += ["-" * 80, _line(stage, output, left[0], right[0])]
        lines += [_line("", "", *pair) for pair in zip(left[1:], right[1:], strict=True)]
    return "\n".join([*lines, "", "FLOPs are multiply-adds of one forward pass, as in the papers."])


def _line(stage: str, output: str, left: str, right: str) -> str:
    return f"{stage:<10} {output:<10} {left:<28} {right}".rstrip()


def _column(model: ResNet50) -> list[tuple[str, str, list[str]]]:
    """Return the rows of one model: stage, output size, and the lines of its cell."""
    sizes = {
        call.path: f"{call.shape[1]}x{call.shape[-1]}" for call in trace(model, IMAGE_SIZE) if len(call.shape) == 3
    }
    stem, pool, summary = model.conv1, model.maxpool, summarize(model, IMAGE_SIZE)
    rows = [("conv1", sizes["conv1"], [f"{_convolution(stem)}, stride {stem.stride[0]}"])]
    for number in range(1, len(model.blocks) + 1):
        name = f"layer{number}"
        rows.append((f"conv{number + 1}", sizes[name], _stage(cast(nn.Sequential, model.get_submodule(name)))))
    rows[1][2].insert(0, f"{pool.kernel_size}x{pool.kernel_size} max pool, stride {pool.stride}")
    return [
        *rows,
        ("", "1x1", ["global average pool", f"{model.fc.out_features}-d fc, softmax"]),
        ("# params.", "", [f"{summary.parameters / 1e6:.2f} x 10^6"]),
        ("FLOPs", "", [f"{summary.multiply_adds / 1e9:.2f} x 10^9"]),
    ]


def _stage(layer: nn.Sequential) -> list[str]:
    """Return a stage as three lines: its block's convolutions in brackets, the number of blocks beside the second."""
    block = cast(Block, layer[0])
    texts = [_convolution(conv) for conv in (block.conv1, block.conv2, block.conv3)]
    lines = [f"[ {text:<{max(map(len, texts))}} ]" for text in texts]
    lines[1] += f" x {len(layer)}"
    return lines


def _convolution(conv: nn.Conv2d) -> str:
    height, width = conv.kernel_size
    return f"{height}x{width}, {conv.out_channels}" + (f", C={conv.groups}" if conv.groups > 1 else "")
