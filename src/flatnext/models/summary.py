"""The layers of a model as a table, in torchsummary's layout (Figure 2 of the baseline paper).

Sizes follow torchsummary: 4 bytes a number, 1 MB = 2**20 bytes, and every listed output counted twice, once for its
gradient. Multiply-adds are those of convolutions and linear layers, for one image; papers often call them FLOPs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flatnext.errors import InputError

BYTES = 4
MEGABYTE = 2**20


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One call of a layer; `shape` is its output's without the batch: (channels, height, width) or (features,)."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The layers in order of definition, and the totals for images of `image_size` pixels a side and `channels`."""

    layers: tuple[Layer, ...]
    image_size: int
    parameters: int
    trainable: int
    channels: int = 3

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of a forward pass for one image."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def megabytes(self) -> dict[str, float]:
        """Size of one image, of all listed outputs with their gradients, of the parameters, and their total, in MB."""
        outputs = sum(math.prod(layer.shape) for layer in self.layers)
        numbers = {
            "Input size": self.channels * self.image_size**2,
            "Forward/backward pass size": 2 * outputs,
            "Params size": self.parameters,
        }
        sizes = {name: count * BYTES / MEGABYTE for name, count in numbers.items()}
        return sizes | {"Estimated Total Size": sum(sizes.values())}


class Call(NamedTuple):
    """One call of a submodule: its path, itself, and the shape of its output without the batch."""

    path: str
    module: nn.Module
    shape: tuple[int, ...]


def trace(model: nn.Module, image_size: int) -> list[Call]:
    """Return the calls of all submodules in one forward pass, in the order of definition, children before parents.

    That is the order of Figure 2; a block calls its shortcut earlier, since its last batch norm adds the result.
    The pass runs on a copy on the meta device: nothing is computed, and the model keeps its mode and statistics.
    """
    calls: list[Call] = []

    def record(path: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, _, output: calls.append(Call(path, module, tuple(output.shape[1:])))

    shadow = copy.deepcopy(model).to("meta").eval()
    for path, module in shadow.named_modules():
        module.register_forward_hook(record(path))
    dtype, channels = next(shadow.parameters()).dtype, _channels(shadow)
    with torch.no_grad():
        shadow(torch.empty(1, channels, image_size, image_size, device="meta", dtype=dtype))
    position = {path: number for number, path in enumerate(_paths(shadow))}
    return sorted(calls, key=lambda call: position[call.path])


def _channels(model: nn.Module) -> int:
    """Return the number of channels of the images that a model takes: those of its first convolution."""
    return next((module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), 3)


def _paths(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """Yield the paths of all submodules, a module's children before itself."""
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
    """Return the table of `model` for square images of `image_size` pixels a side. The model is left as it is.

    As in torchsummary, containers (`Sequential`) and the model itself have no row; a block's row follows its layers'.
    `InputError`: the model does not take images of that size.
    """
    if image_size < 1:
        raise InputError(f"image_size is {image_size}: give at least 1")
    calls = [c for c in trace(model, image_size) if c.path and not isinstance(c.module, nn.Sequential)]
    layers = tuple(
        Layer(
            name=f"{type(module).__name__}-{number}",
            shape=shape,
            parameters=sum(p.numel() for p in module.parameters(recurse=False)),
            multiply_adds=_multiply_adds(module, shape),
        )
        for number, (_, module, shape) in enumerate(calls, start=1)
    )
    parameters = list(model.parameters())
    return Summary(
        layers=layers,
        image_size=image_size,
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        channels=_channels(model),
    )


def format_summary(summary: Summary) -> str:
    """Return the summary as text in torchsummary's layout, with a column and a total for multiply-adds."""
    width = 78
    head = f"{'Layer (type)':>20} {'Output Shape':>24} {'Param #':>14} {'Mult-adds':>16}"
    rows = (
        f"{layer.name:>20} {[-1, *layer.shape]!s:>24} {layer.parameters:>14,} {layer.multiply_adds:>16,}"
        for layer in summary.layers
    )
    counts = {
        "Total params": summary.parameters,
        "Trainable params": summary.trainable,
        "Non-trainable params": summary.parameters - summary.trainable,
        "Mult-adds": summary.multiply_adds,
    }
    lines = ["-" * width, head, "=" * width, *rows, "=" * width]
    lines += [f"{name}: {count:,}" for name, count in counts.items()]
    lines += ["-" * width, *(f"{name} (MB): {size:.2f}" for name, size in summary.megabytes.items())]
    return "\n".join([*lines, "-" * width])
