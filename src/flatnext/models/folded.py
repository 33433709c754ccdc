"""A copy of a network for inference: batch norm folded into the convolutions, ReLU and additions fused with them.

At inference batch norm is a scale and a shift of each channel, which the convolution before it can do. On x86 CPUs
oneDNN applies the residual addition and ReLU while it writes a convolution's output (the operators that
`torch.compile` uses when it freezes a model); elsewhere they are ordinary operators that work in place.
"""

from __future__ import annotations

import copy
import functools
import itertools
import platform
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatnext.errors import InputError
from flatnext.models.imagenet import ResNet50
from flatnext.models.network import Network
from flatnext.models.resnet import BasicBlock, PreActBlock
from flatnext.models.resnext import Block
from flatnext.models.selective_kernel import SelectiveKernelBlock
from flatnext.models.shortcut import PaddedShortcut, Shortcut
from flatnext.ops.cpu import grouped as cpu_grouped
from flatnext.ops.cpu import pointwise as cpu_pointwise

UNSUPPORTED_BLOCKS: dict[type[nn.Module], str] = {PreActBlock: "preact", SelectiveKernelBlock: "sk"}


def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the float64 weight (O, I / groups, K, K) and bias (O,) of a convolution that replaces both."""
    tensors = (conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var)
    # On the CPU, since not every device has float64.
    weight, scale, shift, mean, variance = (cast(Tensor, tensor).detach().cpu().double() for tensor in tensors)
    scale = scale / (variance + norm.eps).sqrt()
    return weight * scale[:, None, None, None], shift - mean * scale


class Convolution(nn.Module):
    """A convolution with a bias, then the addition of a residual if one is given, then ReLU if wanted."""

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, weight: Tensor, bias: Tensor, *, relu: bool) -> None:
        super().__init__()
        self.register_buffer("weight", weight.to(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)
        self.stride, self.padding, self.dilation = conv.stride, cast(Sequence[int], conv.padding), conv.dilation
        self.groups, self.relu = conv.groups, relu
        self._packed: Tensor | None = None  # by oneDNN
        self._columns: Tensor | None = None  # by this package's kernel

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Map (N, I, H, W) to (N, O, H', W') in the same type; `residual` (of the output's shape) is overwritten."""
        if not _has_fused(x) or (x.requires_grad and torch.is_grad_enabled()):  # the fused operators have no gradient
            y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
            y = y if residual is None else y.add_(residual)
            return y.relu_() if self.relu else y
        if residual is None and self._is_grouped and cpu_grouped.takes(self.weight, x, self.stride[0]):
            return cpu_grouped.answer(x, self.weight, self.bias, self.stride[0], relu=self.relu)
        if self._is_pointwise and cpu_pointwise.takes(self.weight, x, residual):
            self._columns = cpu_pointwise.pack(self.weight) if self._columns is None else self._columns
            return cpu_pointwise.answer(x, self._columns, self.bias, self.stride[0], residual, relu=self.relu)
        settings = (self.bias, self.padding, self.stride, self.dilation, self.groups)
        unary = "relu" if self.relu else "none"
        if residual is None:
            return torch.ops.mkldnn._convolution_pointwise(x, self._pack(x), *settings, unary, [], "")
        add = torch.ops.mkldnn._convolution_pointwise_.binary
        return add(residual, x, self._pack(x), *settings, "add", 1.0, unary if self.relu else None, [], "")

    @property
    def _is_grouped(self) -> bool:
        """Return whether this is a grouped 3x3 convolution of float32, padded by 1."""
        return (
            self.groups > 1
            and self.weight.dtype == torch.float32
            and tuple(self.weight.shape[2:]) == (3, 3)
            and tuple(self.padding) == tuple(self.dilation) == (1, 1)
            and self.stride[0] == self.stride[1]
        )

    @property
    def _is_pointwise(self) -> bool:
        """Return whether this is a 1x1 convolution without groups and padding."""
        return (
            self.groups == 1
            and tuple(self.weight.shape[2:]) == (1, 1)
            and tuple(self.padding) == (0, 0)
            and self.stride[0] == self.stride[1]
        )

    def _pack(self, x: Tensor) -> Tensor:
        """Return the weight in the layout that oneDNN prefers, computed for the first input and used for all."""
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, self.padding, self.stride, self.dilation, self.groups, list(x.shape)
            )
        return self._packed

    def _apply(self, *args: Any, **kwargs: Any) -> Convolution:
        self._packed = self._columns = None  # they belong to the old type and device
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._packed = self._columns = None  # they are of the old weights
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None, "_columns": None}  # the former can be neither copied nor pickled


@functools.cache
def _cpu_has_fused() -> bool:
    """Return whether torch has oneDNN's fused operators, and the CPU is an x86, where they were tested."""
    names = ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight")
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return x86 and torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


@functools.cache
def _cpu_has_fused_bf16() -> bool:
    return _cpu_has_fused() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _has_fused(x: Tensor) -> bool:
    if x.device.type != "cpu" or not torch.backends.mkldnn.enabled:
        return False
    if x.dtype == torch.bfloat16:
        return _cpu_has_fused_bf16()
    return x.dtype == torch.float32 and _cpu_has_fused()


class InferenceBlock(nn.Module):
    """A residual block of convolutions. The last one adds the shortcut: the input, convolved, padded, or as it is."""

    def __init__(self, convolutions: Iterable[nn.Module], shortcut: nn.Module | None) -> None:
        super().__init__()
        self.convolutions, self.shortcut = nn.ModuleList(convolutions), shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, I, H, W) to (N, O, H', W'); `x` may be overwritten."""
        *first, last = self.convolutions
        y = x
        for convolution in first:
            y = convolution(y)
        return last(y, x if self.shortcut is None else self.shortcut(x))


class InferenceNet(nn.Module):
    """The result of `for_inference`: a stem, blocks, global average pooling and a linear layer."""

    def __init__(self, stem: nn.Module, blocks: nn.Sequential, linear: nn.Linear, downsampling: int) -> None:
        super().__init__()
        self.stem, self.blocks, self.linear, self.downsampling = stem, blocks, linear, downsampling
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N, C, H, W) to float32 logits (N, classes). `InputError`: H or W is not divisible.

        The logits have a graph only where the images require a gradient.
        """
        height, width = images.shape[-2:]
        if height % self.downsampling or width % self.downsampling:
            raise InputError(f"image size is {height}x{width}: give sides that are multiples of {self.downsampling}")
        if not images.is_floating_point():
            raise InputError(f"images are {images.dtype}: give floating-point ones, normalised as in training")
        with torch.autocast("cpu" if images.is_meta else images.device.type, enabled=False):
            dtype = next(self.stem.buffers()).dtype
            x = self.blocks(self.stem(images.to(dtype, memory_format=torch.channels_last)))
            return self.linear(x.mean((2, 3), dtype=self.linear.weight.dtype))


def folded(model: nn.Module) -> InferenceNet:
    """Return a float32 copy of `model` for inference, on its device. `InputError`: it is no network of this package."""
    for module in model.modules():
        if type(module) in UNSUPPORTED_BLOCKS:
            raise InputError(
                f"for_inference does not know block {UNSUPPORTED_BLOCKS[type(module)]}: use the model itself"
            )
    if not _is_network(model):
        raise InputError(f"for_inference does not know {type(model).__name__}: give a ResNeXt or ResNet50 of flatnext")
    if other := changed(model):
        raise InputError(f"for_inference does not know a network whose {other} was changed: use the model itself")
    blocks = [module for module in model.modules() if isinstance(module, (Block, BasicBlock))]
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    stem: list[nn.Module] = [_convolution(model, "conv1", "bn1", relu=True)]
    if hasattr(model, "maxpool"):
        stem.append(copy.deepcopy(cast(nn.Module, model.maxpool)))
    device = linear[0].weight.device
    return InferenceNet(
        nn.Sequential(*stem).to(device),
        nn.Sequential(*map(_block, blocks)).to(device),
        copy.deepcopy(linear[0]).float().requires_grad_(False),
        cast(int, getattr(model, "downsampling", 1)),
    )


def changed(model: nn.Module) -> str | None:
    """Return the name of a module of a network that is not as this package makes it, or None: a copy would lose that.

    A subclass counts as what it is made of, as long as it runs forward in the same way; a hook is a change.
    """
    return next((name or type(model).__name__ for name, module in model.named_modules() if not _is_known(module)), None)


def _is_network(module: nn.Module) -> bool:
    return type(module).forward in (Network.forward, ResNet50.forward)


def _is_known(module: nn.Module) -> bool:
    """Return whether a module computes what its copy will compute."""
    own = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    if any(own) or "forward" in vars(module):
        return False
    forward, children = type(module).forward, list(module._modules)
    if forward is nn.Conv2d.forward:
        return module.bias is None and module.padding_mode == "zeros"
    if isinstance(module, nn.BatchNorm2d) and forward is nn.BatchNorm2d.forward:
        return module.affine and module.running_mean is not None
    if forward is nn.Sequential.forward:
        return all(isinstance(child, (Block, BasicBlock)) for child in module.children())
    if forward is Shortcut.forward:
        return [type(child) for child in module.children()] in ([], [nn.Conv2d, nn.BatchNorm2d])
    if isinstance(module, (Block, BasicBlock)) and forward in (Block.forward, BasicBlock.forward):
        return children == [*itertools.chain(*_layers(module)), _shortcut_name(module)]
    if isinstance(module, Network) and forward is Network.forward:
        return children == ["conv1", "bn1", *module.stages, "linear"]
    if forward is ResNet50.forward:
        return children == ["conv1", "bn1", "maxpool", "layer1", "layer2", "layer3", "layer4", "fc"]
    return forward in (nn.Linear.forward, nn.MaxPool2d.forward, PaddedShortcut.forward)


def _layers(block: Block | BasicBlock) -> list[tuple[str, str]]:
    """Return the names of a block's convolutions, each with that of its batch norm."""
    return [(f"conv{number}", f"bn{number}") for number in ((1, 2, 3) if isinstance(block, Block) else (1, 2))]


def _shortcut_name(block: Block | BasicBlock) -> str:
    return block.shortcut_name if isinstance(block, Block) else "shortcut"


def _block(block: Block | BasicBlock) -> InferenceBlock:
    convolutions = [_convolution(block, *pair, relu=True) for pair in _layers(block)]
    shortcut = getattr(block, _shortcut_name(block))
    if isinstance(shortcut, PaddedShortcut):
        return InferenceBlock(convolutions, copy.deepcopy(shortcut))
    return InferenceBlock(convolutions, _convolution(shortcut, "0", "1", relu=False) if len(shortcut) else None)


def _convolution(parent: nn.Module, conv: str, norm: str, *, relu: bool) -> Convolution:
    convolution = cast(nn.Conv2d, parent.get_submodule(conv))
    weight, bias = fold(convolution, cast(nn.BatchNorm2d, parent.get_submodule(norm)))
    return Convolution(convolution, weight.float(), bias.float(), relu=relu)
