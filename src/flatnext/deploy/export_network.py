"""The network that is exported: uint8 images in, with all that belongs to an answer inside, and batch norm folded."""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatnext import models
from flatnext.deploy.manifest import Manifest
from flatnext.models.folded import fold
from flatnext.models.network import Network
from flatnext.models.resnet import BasicBlock, PreActBlock
from flatnext.models.resnext import Block
from flatnext.models.selective_kernel import SelectiveKernel, SelectiveKernelBlock
from flatnext.models.shortcut import Shortcut
from flatnext.pictures import PAD

FOLDED: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
    Network: (("conv1", "bn1"),),
    models.ResNeXt: (("conv1", "bn1"),),
    Block: (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")),
    BasicBlock: (("conv1", "bn1"), ("conv2", "bn2")),
    PreActBlock: (("conv1", "bn2"),),
    SelectiveKernelBlock: (("conv1", "bn1"), ("conv3", "bn3")),
    SelectiveKernel: (("conv1", "bn1"), ("conv2", "bn2"), ("fuse", "bn3")),
    Shortcut: (("0", "1"),),
}
"""Of each class, its convolutions with the batch norm that follows each."""


class Affine(nn.Module):
    """A batch norm with no convolution before it: a scale and a shift of each channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        tensors = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        weight, bias, mean, variance = (cast(Tensor, tensor).detach().cpu().double() for tensor in tensors)
        scale = weight / (variance + norm.eps).sqrt()
        self.register_buffer("scale", scale.float()[:, None, None])
        self.register_buffer("shift", (bias - mean * scale).float()[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        return x * self.scale + self.shift


def without_batch_norm(model: Network) -> Network:
    """Return a float32 copy on the CPU, for inference, whose batch norms are folded into the convolutions before them.

    Those with none before them, in blocks with pre-activation, become an `Affine`. The arithmetic is in float64.
    Exporters fold as well, with known faults (pytorch#166797, pytorch#169178): they find nothing left to do.
    """
    net = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    for module in list(net.modules()):
        for conv, norm in FOLDED.get(type(module), ()):
            convolution, batch_norm = module._modules.get(conv), module._modules.get(norm)
            if isinstance(convolution, nn.Conv2d) and isinstance(batch_norm, nn.BatchNorm2d):
                weight, bias = fold(convolution, batch_norm)
                convolution.weight.data = weight.float()
                convolution.bias = nn.Parameter(bias.float(), requires_grad=False)
                module._modules[norm] = nn.Identity()
    for module in list(net.modules()):
        for name, child in module._modules.items():
            if isinstance(child, nn.BatchNorm2d):
                module._modules[name] = Affine(child)
    return net


class ExportedNetwork(nn.Module):
    """A trained network as an export holds it: resizing, normalisation, network, temperature and activation map.

    It is the reference for the ONNX graph, and what `torch.export` exports.

    Args:
        model: the network; a copy is taken.
        normalization: mean and std (each C) of its images.
        manifest: says image size, way of resizing and temperature.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, model: Network, normalization: tuple[Tensor, Tensor], manifest: Manifest) -> None:
        super().__init__()
        self.net = without_batch_norm(model)
        mean, std = (values.detach().cpu().float().view(-1, 1, 1) for values in normalization)
        self.register_buffer("shift", mean * 255)
        self.register_buffer("scale", std * 255)
        self.image_size, self.resize, self.temperature = manifest.image_size, manifest.resize, manifest.temperature
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map uint8 images (N, C, H, W) to logits, probabilities and activation, as `onnx_model.Answer` has them."""
        pixels = (self.resized(images.float()) - self.shift) / self.scale
        features = self.net.features(pixels)
        logits = self.net.linear(features.mean((2, 3)))
        probabilities = (logits / self.temperature).softmax(dim=1)
        # With global average pooling and a linear layer this is Grad-CAM exactly, up to its scale.
        weight = self.net.linear.weight[logits.argmax(dim=1)]
        heat = (features * weight[:, :, None, None]).sum(dim=1).relu()
        largest = heat.amax(dim=(1, 2), keepdim=True)
        return logits, probabilities, heat / largest.clamp(min=torch.finfo(torch.float32).tiny)

    def resized(self, pixels: Tensor) -> Tensor:
        """Return images of whole numbers (float, N, C, H, W) at the image size: as they are where they have it.

        Bilinear with antialiasing, rounded to whole numbers as `flatnext.data` does.
        """
        size = (self.image_size, self.image_size)
        height, width = pixels.shape[2:]
        if (height, width) == size:
            return pixels
        if self.resize == "crop":
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            pixels = pixels[:, :, top : top + side, left : left + side]
        elif self.resize == "pad":
            side = max(height, width)
            top, left = (side - height) // 2, (side - width) // 2
            edges = (left, side - width - left, top, side - height - top)
            pixels = F.pad(pixels, edges, value=float(PAD))
        pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
        return pixels.round().clamp(0, 255)
