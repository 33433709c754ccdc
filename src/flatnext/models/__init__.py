"""The networks, their tables, and reading their weights."""

from __future__ import annotations

import torch
from torch import nn

from flatnext.config import Model
from flatnext.errors import InputError
from flatnext.models.catalog import find_weights, format_shipped, shipped
from flatnext.models.inference import for_inference
from flatnext.models.origin import Origin, read_origin
from flatnext.models.resnext import ResNeXt, resnext29
from flatnext.models.summary import format_summary, summarize, table1
from flatnext.models.weights import assign_weights, load_weights, read_weights

__all__ = [
    "Origin",
    "ResNeXt",
    "assign_weights",
    "build",
    "find_weights",
    "for_inference",
    "format_shipped",
    "format_summary",
    "load_weights",
    "parameter_count",
    "read_origin",
    "read_weights",
    "resnext29",
    "shipped",
    "summarize",
    "table1",
]


def parameter_count(model: nn.Module) -> int:
    """Return the number of trainable and frozen parameters; batch norm's running statistics are not among them."""
    return sum(parameter.numel() for parameter in model.parameters())


def build(settings: Model, classes: int) -> ResNeXt:
    """Return the model that the settings describe, with torch's default initialisation from its global generator.

    `InputError`: it has no classes, or more parameters than `settings.parameter_budget`. They are counted before any
    memory is taken.
    """
    if classes < 1:
        raise InputError(f"classes is {classes}: give at least 1")
    remedy = "lower blocks, cardinality, bottleneck_width or stem"
    try:
        with torch.device("meta"):
            count = parameter_count(_resnext(settings, classes))
    except (RuntimeError, TypeError) as error:  # a size beyond 64 bits
        raise InputError(f"the model is too large to count its parameters: {remedy}") from error
    budget = settings.parameter_budget
    if count > budget:
        raise InputError(
            f"the model has {count:,} parameters, {count - budget:,} more than parameter_budget {budget:,}: "
            f"{remedy}, or raise parameter_budget"
        )
    return _resnext(settings, classes)


def _resnext(settings: Model, classes: int) -> ResNeXt:
    return ResNeXt(settings.blocks, settings.cardinality, settings.bottleneck_width, settings.stem, classes)
