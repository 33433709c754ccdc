"""Train small image classifiers into flat minima, and know by how much it helped.

The names below are imported when they are first used, so that importing the package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flatnext.config import Config, Data
    from flatnext.data import Loader, load, partition
    from flatnext.deploy import PretrainedInfo, from_pretrained, pretrained_info
    from flatnext.errors import InputError
    from flatnext.evaluation.evaluate import evaluate
    from flatnext.methods.adversarial import adversarial
    from flatnext.methods.amp import amp
    from flatnext.methods.momentum_amp import momentum_amp
    from flatnext.methods.optimizer import AMP
    from flatnext.methods.rmp import rmp
    from flatnext.methods.sam import asam, sam
    from flatnext.methods.sgd import sgd
    from flatnext.models import ResNeXt, create_model, for_inference, list_models, load_weights, resnext29
    from flatnext.recipes import recipe
    from flatnext.training import train

__all__ = [
    "AMP",
    "Config",
    "Data",
    "InputError",
    "Loader",
    "PretrainedInfo",
    "ResNeXt",
    "adversarial",
    "amp",
    "asam",
    "create_model",
    "evaluate",
    "for_inference",
    "from_pretrained",
    "list_models",
    "load",
    "load_weights",
    "momentum_amp",
    "partition",
    "pretrained_info",
    "recipe",
    "resnext29",
    "rmp",
    "sam",
    "sgd",
    "train",
]

_HOMES = {
    "config": ["Config", "Data"],
    "data": ["Loader", "load", "partition"],
    "deploy": ["PretrainedInfo", "from_pretrained", "pretrained_info"],
    "errors": ["InputError"],
    "evaluation": ["evaluate"],
    "methods": ["AMP", "adversarial", "amp", "asam", "momentum_amp", "rmp", "sam", "sgd"],
    "models": ["ResNeXt", "create_model", "for_inference", "list_models", "load_weights", "resnext29"],
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
