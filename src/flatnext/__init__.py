"""Train small image classifiers with perturbed weights or inputs, and measure whether it helped.

The names below are imported when they are first used: importing the package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flatnext.config import Config, Data, recipe
    from flatnext.data import Loader, Normalization, partition
    from flatnext.data import load as load_data
    from flatnext.deploy import Classifier, Prediction, PretrainedInfo, from_pretrained, load, pretrained_info
    from flatnext.errors import InputError
    from flatnext.evaluation import Predictor, load_predictor
    from flatnext.evaluation.evaluate import evaluate  # type checkers take these names for the modules otherwise
    from flatnext.methods.adversarial import adversarial
    from flatnext.methods.amp import amp
    from flatnext.methods.momentum_amp import momentum_amp
    from flatnext.methods.optimizer import AMP, ASAM, SAM
    from flatnext.methods.rmp import rmp
    from flatnext.methods.sam import asam, sam
    from flatnext.methods.sgd import sgd
    from flatnext.models import ResNeXt, create_model, for_inference, list_models, load_weights, resnext29
    from flatnext.training import train

    __version__: str

__all__ = [
    "AMP",
    "ASAM",
    "SAM",
    "Classifier",
    "Config",
    "Data",
    "InputError",
    "Loader",
    "Normalization",
    "Prediction",
    "Predictor",
    "PretrainedInfo",
    "ResNeXt",
    "__version__",
    "adversarial",
    "amp",
    "asam",
    "create_model",
    "evaluate",
    "for_inference",
    "from_pretrained",
    "list_models",
    "load",
    "load_data",
    "load_predictor",
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

_MODULES = {
    "config": ("Config", "Data", "recipe"),
    "data": ("Loader", "Normalization", "partition"),
    "deploy": ("Classifier", "Prediction", "PretrainedInfo", "from_pretrained", "load", "pretrained_info"),
    "errors": ("InputError",),
    "evaluation": ("Predictor", "evaluate", "load_predictor"),
    "methods": ("AMP", "ASAM", "SAM", "adversarial", "amp", "asam", "momentum_amp", "rmp", "sam", "sgd"),
    "models": ("ResNeXt", "create_model", "for_inference", "list_models", "load_weights", "resnext29"),
    "training": ("train",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
_NAMED_ELSEWHERE = {"load_data": ("data", "load")}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from flatnext.versions import version_of

        return version_of("flatnext")
    module, there = _NAMED_ELSEWHERE.get(name, (_MODULE_OF.get(name), name))
    if module is None:
        raise AttributeError(f"module 'flatnext' has no attribute {name!r}")
    return getattr(importlib.import_module(f"flatnext.{module}"), there)


def __dir__() -> list[str]:
    return sorted(__all__)
