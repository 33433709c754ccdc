"""From a run to a model that others use: weights by name, answers about pictures, and making weights files from runs.

The names below are imported when they are first used: a model in ONNX is asked without importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flatnext.deploy.classifier import Classifier
    from flatnext.deploy.loading import load
    from flatnext.deploy.prediction import Prediction
    from flatnext.deploy.pretrained import PretrainedInfo, from_pretrained, pretrained_info

__all__ = ["Classifier", "Prediction", "PretrainedInfo", "from_pretrained", "load", "pretrained_info"]

_MODULES = {
    "classifier": ("Classifier",),
    "loading": ("load",),
    "prediction": ("Prediction",),
    "pretrained": ("PretrainedInfo", "from_pretrained", "pretrained_info"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'flatnext.deploy' has no attribute {name!r}")
    return getattr(importlib.import_module(f"flatnext.deploy.{_MODULE_OF[name]}"), name)
