"""Models for `torch.hub`, from a clone of this repository or from its address.

model = torch.hub.load("/path/to/the/clone", "resnext29_cifar10", source="local")
logits = model(images)  # torch.uint8, N x 3 x 32 x 32
"""

import sys as _sys
from pathlib import Path as _Path

dependencies = ["torch", "numpy", "PIL", "safetensors"]

_SOURCE = str(_Path(__file__).resolve().parent / "src")
if _SOURCE not in _sys.path:
    _sys.path.insert(0, _SOURCE)

import flatnext as _flatnext  # noqa: E402


def trained(weights="resnext29-cifar10"):
    """Return a trained network that maps uint8 images (N x C x H x W) to logits; `model.classes` are their names.

    `weights` are those that ship (`flatnext weights` lists them), a run folder, a weights file, or `hf://user/name`.
    """
    from flatnext.deploy.hub_network import trained_network

    return trained_network(weights)


def resnext29_cifar10(pretrained=True):
    """Return ResNeXt-29 (32x4d): trained on CIFAR-10, with uint8 images in; or with new weights, as `network` does."""
    return trained() if pretrained else network("resnext29")


def network(name="resnext29", classes=10):
    """Return a model of `flatnext models` with new weights, which maps normalised images to logits."""
    return _flatnext.create_model(name, classes)
