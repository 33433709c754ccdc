"""Train small image classifiers into flat minima, and know by how much it helped.

The names below are imported when they are first used, so that importing the package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flatnext.config import Config
    from flatnext.data import Loader, load, partition
    from flatnext.errors import InputError
    from flatnext.evaluation.evaluate import evaluate
    from flatnext.methods.amp import amp
    from flatnext.methods.sgd import sgd
    from flatnext.models import ResNeXt, load_weights, resnext29
    from flatnext.recipes import recipe
    from flatnext.training import train

__all__ = [
    "Config",
    "InputError",
    "Loader",
    "ResNeXt",
    "amp",
    "evaluate",
    "load",
    "load_weights",
    "partition",
    "recipe",
    "resnext29",
    "sgd",
    "train",
]

_HOMES = {
    "config": ["Config"],
    "data": ["Loader", "load", "partition"],
    "errors": ["InputError"],
    "evaluation": ["evaluate"],
    "methods": ["amp", "sgd"],
    "models": ["ResNeXt", "load_weights", "resnext29"],
    "recipes": ["recipe"],
    "training": ["train"],
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'flatnext' has no attribute {name!r}")
    return getattr(importlib.import_module(f"flatnext.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
