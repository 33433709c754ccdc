"""Eight-bit inference: activations in uint8, weights in int8, sums in int32, by oneDNN's convolutions.

A real number is scale x (integer - zero point). Weights have a scale for each output channel and no zero point;
activations have one scale a layer, found from calibration images, and a zero point only where they can be negative.
The operators are those that `torch.compile` uses for quantised models (post-training static quantisation).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from flatnext.cpu import processor_facts
from flatnext.errors import InputError
from flatnext.models.folded import Convolution, InferenceBlock, InferenceNet
from flatnext.models.shortcut import PaddedShortcut

LEVELS = 255
BATCH = 64  # of calibration images
INT8_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8"}


class Scale(NamedTuple):
    """How integers 0 to 255 stand for real numbers: `scale` x (integer - `zero`)."""

    scale: float
    zero: int

    @classmethod
    def of_range(cls, low: float, high: float) -> Scale:
        """Return the scale that spans `low` to `high` and has an integer for 0."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / LEVELS, 1e-12)  # all activations may be 0
        return cls(scale, round(-low / scale))


def quantize(net: InferenceNet, calibration: Tensor) -> InferenceNet:
    """Return the eight-bit form of a folded float32 network, with scales from `calibration` (N, 3, H, W), normalised.

    `InputError`: no images, or this CPU has no int8 dot products.
    """
    if net.linear.weight.device.type != "cpu" or not cpu_has_int8():
        raise InputError("precision int8 needs an x86 CPU with VNNI or AMX and torch with oneDNN: choose bf16 or fp32")
    if any(isinstance(module, PaddedShortcut) for module in net.modules()):
        raise InputError("precision int8 is not for widths pyramid, whose shortcuts are padded: choose bf16 or fp32")
    if len(calibration) == 0:
        raise InputError("calibration has no images: give some hundreds")
    scales = _scales(net, calibration)
    x = scales[net.stem]
    blocks: list[nn.Module] = [_Quantize(x)]
    for block in cast(Iterable[InferenceBlock], net.blocks):
        blocks.append(_quantized_block(block, x, scales))
        x = scales[block.convolutions[-1]]
    linear = net.linear
    linear.weight.mul_(x.scale)  # pooling gives the mean of the integers
    return InferenceNet(net.stem, nn.Sequential(*blocks), linear, net.downsampling)


@functools.cache
def cpu_has_int8() -> bool:
    """Return whether this CPU adds up int8 products without saturation (VNNI or AMX), and torch has the operators."""
    flags = set(processor_facts().split())
    available = hasattr(torch.ops.onednn, "qconv2d_pointwise") and hasattr(torch.ops.onednn, "qconv_prepack")
    return bool(flags & INT8_FLAGS) and available and torch.backends.mkldnn.is_available()


def _scales(net: InferenceNet, images: Tensor) -> dict[nn.Module, Scale]:
    """Return the scale of the output of the stem and of each convolution in the blocks."""
    ranges: dict[nn.Module, tuple[float, float]] = {}

    def record(module: nn.Module, _: Any, output: Tensor) -> None:
        low, high = ranges.get(module, (0.0, 0.0))
        ranges[module] = (min(low, float(output.min())), max(high, float(output.max())))

    watched = [net.stem, *(module for module in net.blocks.modules() if isinstance(module, Convolution))]
    handles = [module.register_forward_hook(record) for module in watched]
    for chunk in images.split(BATCH):
        net(chunk)
    for handle in handles:
        handle.remove()
    return {module: Scale.of_range(*bounds) for module, bounds in ranges.items()}


def _quantized_block(block: InferenceBlock, x: Scale, scales: dict[nn.Module, Scale]) -> InferenceBlock:
    shortcut = cast(Convolution | None, block.shortcut)
    residual = x if shortcut is None else scales[shortcut]
    *first, last = cast(Iterable[Convolution], block.convolutions)
    layers, source = [], x
    for convolution in first:
        layers.append(QuantizedConvolution(convolution, source, scales[convolution]))
        source = scales[convolution]
    layers.append(QuantizedConvolution(last, source, scales[last], residual))
    return InferenceBlock(layers, None if shortcut is None else QuantizedConvolution(shortcut, x, residual))


class _Quantize(nn.Module):
    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Map non-negative float32 to uint8; `x` is overwritten."""
        return x.mul_(1 / self.scale.scale).round_().clamp_(max=LEVELS).to(torch.uint8)


class QuantizedConvolution(nn.Module):
    """`Convolution` on uint8 activations of scale `x`, giving uint8 of scale `y`; a residual has scale `residual`."""

    weight: Tensor
    bias: Tensor
    weight_scale: Tensor
    weight_zero: Tensor

    def __init__(self, conv: Convolution, x: Scale, y: Scale, residual: Scale | None = None) -> None:
        super().__init__()
        scale = (conv.weight.abs().amax((1, 2, 3)) / 127).clamp_min(1e-12)
        integers = (conv.weight / scale[:, None, None, None]).round().to(torch.int8)
        self.register_buffer("weight", integers.contiguous())
        self.register_buffer("weight_scale", scale)
        self.register_buffer("weight_zero", torch.zeros(len(scale), dtype=torch.int32))
        self.register_buffer("bias", conv.bias.clone())
        self.geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
        self.relu, self.x, self.y, self.residual = conv.relu, x, y, residual
        self._packed: Tensor | None = None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Map uint8 (N, I, H, W) to uint8 (N, O, H', W'); `residual` (of the output's shape) is overwritten."""
        left = (x, *self.x, self._pack(x), self.weight_scale, self.weight_zero)
        right = (self.bias, *self.geometry, *self.y, torch.uint8)
        unary = "relu" if self.relu else "none"
        if residual is None or self.residual is None:
            return torch.ops.onednn.qconv2d_pointwise(*left, *right, unary, [], "")
        add: Callable[..., Tensor] = torch.ops.onednn.qconv2d_pointwise.binary
        return add(*left, residual, *right, *self.residual, "sum", 1.0, unary, [], "")

    def _pack(self, x: Tensor) -> Tensor:
        if self._packed is None:
            self._packed = torch.ops.onednn.qconv_prepack(
                self.weight, self.weight_scale, *self.x, *self.geometry, list(x.shape)
            )
        return self._packed

    def _apply(self, *args: Any, **kwargs: Any) -> QuantizedConvolution:
        self._packed = None  # it belongs to the old device
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._packed = None  # it is of the old weights
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}  # it can be neither copied nor pickled
