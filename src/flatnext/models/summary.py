"""What a model is made of: a table layer by layer (the report's Figure 2), and the report's Table 1.

Sizes follow torchsummary: 4 bytes a number, 1 MB = 2**20 bytes, and every listed output counted twice, once for its
gradient. Multiply-adds are those of convolutions and linear layers, for one image; the papers call them FLOPs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from flatnext.errors import InputError
from flatnext.models.imagenet import ResNet50, resnet50, resnext50_32x4d
from flatnext.models.resnext import Block

BYTES = 4
MEGABYTE = 2**20


@dataclass(frozen=True)
class Row:
    """One call of a layer; `shape` is its output's without the batch: (channels, height, width) or (features,)."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Summary:
    """The layers in order of definition, and the totals."""

    rows: tuple[Row, ...]
    image_size: int
    parameters: int
    trainable: int

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of a forward pass for one image."""
        return sum(row.multiply_adds for row in self.rows)

    @property
    def input_mb(self) -> float:
        """Size of one image, in MB."""
        return 3 * self.image_size**2 * BYTES / MEGABYTE

    @property
    def activations_mb(self) -> float:
        """Size of all listed outputs and their gradients for one image, in MB."""
        return 2 * sum(math.prod(row.shape) for row in self.rows) * BYTES / MEGABYTE

    @property
    def parameters_mb(self) -> float:
        """Size of the parameters, in MB."""
        return self.parameters * BYTES / MEGABYTE

    @property
    def total_mb(self) -> float:
        """Size of image, activations and parameters, in MB."""
        return self.input_mb + self.activations_mb + self.parameters_mb


class _Call(NamedTuple):
    path: str
    module: nn.Module
    shape: tuple[int, ...]


def _trace(model: nn.Module, image_size: int) -> list[_Call]:
    """Return the calls of all submodules in one forward pass, in the order of definition, parts before the whole.

    That is the order of Figure 2; a block calls its shortcut earlier, as its last batch norm adds what it gives.
    The pass runs on a copy on the meta device: nothing is computed, and the model keeps its mode and statistics.
    """
    calls: list[_Call] = []

    def record(path: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, _, output: calls.append(_Call(path, module, tuple(output.shape[1:])))

    shadow = copy.deepcopy(model).to("meta").eval()
    for path, module in shadow.named_modules():
        module.register_forward_hook(record(path))
    dtype = next(shadow.parameters()).dtype
    with torch.no_grad():
        shadow(torch.empty(1, 3, image_size, image_size, device="meta", dtype=dtype))
    position = {path: number for number, path in enumerate(_paths(shadow))}
    return sorted(calls, key=lambda call: position[call.path])


def _paths(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """Yield the paths of all submodules, those of a module's parts before its own."""
    for name, child in module.named_children():
        yield from _paths(child, f"{prefix}{name}.")
    yield prefix.rstrip(".")


def _multiply_adds(module: nn.Module, shape: tuple[int, ...]) -> int:
    if isinstance(module, nn.Conv2d):
        return math.prod(shape) * module.in_channels // module.groups * math.prod(module.kernel_size)
    if isinstance(module, nn.Linear):
        return math.prod(shape) * module.in_features
    return 0


def summarize(model: nn.Module, image_size: int) -> Summary:
    """Return the table of `model` for square RGB images of `image_size` pixels a side. The model is left as it is.

    As in torchsummary, containers (`Sequential`) and the model itself have no row, and a block's row follows its parts.
    `InputError`: the model does not take images of that size.
    """
    if image_size < 1:
        raise InputError(f"image_size is {image_size}: give at least 1")
    calls = [c for c in _trace(model, image_size) if c.path and not isinstance(c.module, nn.Sequential)]
    rows = tuple(
        Row(
            name=f"{type(module).__name__}-{number}",
            shape=shape,
            parameters=sum(p.numel() for p in module.parameters(recurse=False)),
            multiply_adds=_multiply_adds(module, shape),
        )
        for number, (_, module, shape) in enumerate(calls, start=1)
    )
    parameters = list(model.parameters())
    return Summary(
        rows=rows,
        image_size=image_size,
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
    )


def format_summary(summary: Summary) -> str:
    """Return the summary as text in torchsummary's layout, with a column and a total for multiply-adds."""
    width = 78
    head = f"{'Layer (type)':>20} {'Output Shape':>24} {'Param #':>14} {'Mult-adds':>16}"
    lines = ["-" * width, head, "=" * width]
    for row in summary.rows:
        shape = str([-1, *row.shape])
        lines.append(f"{row.name:>20} {shape:>24} {row.parameters:>14,} {row.multiply_adds:>16,}")
    lines += [
        "=" * width,
        f"Total params: {summary.parameters:,}",
        f"Trainable params: {summary.trainable:,}",
        f"Non-trainable params: {summary.parameters - summary.trainable:,}",
        f"Mult-adds: {summary.multiply_adds:,}",
        "-" * width,
        f"Input size (MB): {summary.input_mb:.2f}",
        f"Forward/backward pass size (MB): {summary.activations_mb:.2f}",
        f"Params size (MB): {summary.parameters_mb:.2f}",
        f"Estimated Total Size (MB): {summary.total_mb:.2f}",
        "-" * width,
    ]
    return "\n".join(lines)


def table1() -> str:
    """Return the report's Table 1 as text: ResNet-50 beside ResNeXt-50 (32x4d) at 224x224, read off the models."""
    with torch.device("meta"):
        models = {"ResNet-50": resnet50(), "ResNeXt-50 (32x4d)": resnext50_32x4d()}
    columns = [_column(model) for model in models.values()]
    lines = [_line("stage", "output", *models)]
    for (stage, output, left), (_, _, right) in zip(*columns, strict=True):
        lines.append("-" * 80)
        lines.append(_line(stage, output, left[0], right[0]))
        lines += [_line("", "", *pair) for pair in zip(left[1:], right[1:], strict=True)]
    return "\n".join([*lines, "", "FLOPs are multiply-adds of one forward pass, as in the papers."])


def _line(stage: str, output: str, left: str, right: str) -> str:
    return f"{stage:<10} {output:<10} {left:<28} {right}".rstrip()


def _column(model: ResNet50) -> list[tuple[str, str, list[str]]]:
    """Return one model's part of Table 1: (stage, output size, lines) for every row."""
    shapes = {path: shape for path, _, shape in _trace(model, 224)}
    stem, pool = model.conv1, model.maxpool
    layers = [f"layer{index + 1}" for index in range(len(model.blocks))]
    cells = [_template(cast(nn.Sequential, model.get_submodule(layer))) for layer in layers]
    cells[0].insert(0, f"{pool.kernel_size}x{pool.kernel_size} max pool, stride {pool.stride}")
    summary = summarize(model, 224)
    return [
        ("conv1", _size(shapes["conv1"]), [f"{_convolution(stem)}, stride {stem.stride[0]}"]),
        *(
            (f"conv{n}", _size(shapes[layer]), cell)
            for n, (layer, cell) in enumerate(zip(layers, cells, strict=True), 2)
        ),
        ("", "1x1", ["global average pool", f"{model.fc.out_features}-d fc, softmax"]),
        ("# params.", "", [f"{summary.parameters / 1e6:.2f} x 10^6"]),
        ("FLOPs", "", [f"{summary.multiply_adds / 1e9:.2f} x 10^9"]),
    ]


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[2]}"


def _template(layer: nn.Sequential) -> list[str]:
    """Return a stage as three lines: its block's convolutions in brackets, the number of blocks beside the second."""
    block = cast(Block, layer[0])
    parts = [_convolution(conv) for conv in (block.conv1, block.conv2, block.conv3)]
    lines = [f"[ {part:<{max(map(len, parts))}} ]" for part in parts]
    lines[1] += f" x {len(layer)}"
    return lines


def _convolution(conv: nn.Conv2d) -> str:
    height, width = conv.kernel_size
    return f"{height}x{width}, {conv.out_channels}" + (f", C={conv.groups}" if conv.groups > 1 else "")
