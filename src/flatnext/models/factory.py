"""From settings or a name to a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flatnext.config import MODELS, Model, named_model
from flatnext.errors import InputError, choose
from flatnext.models.catalog import entry_of
from flatnext.models.network import BlockClass, Network, constant_widths, pyramid_widths
from flatnext.models.resnet import BasicBlock, PreActBlock
from flatnext.models.resnext import Block
from flatnext.models.selective_kernel import SelectiveKernelBlock
from flatnext.models.weights import assign_weights, input_channels

BLOCKS: dict[str, BlockClass] = {
    "resnext": Block,
    "basic": BasicBlock,
    "preact": PreActBlock,
    "sk": SelectiveKernelBlock,
}


ANY = 2**53
"""A number of parameters that no model has: the budget is for what is trained and compared by this package."""

TRAINED = "flatnext.from_pretrained returns a model with trained weights"


def parameter_count(model: nn.Module) -> int:
    """Return the number of trainable and frozen parameters, without batch norm's running statistics."""
    return sum(parameter.numel() for parameter in model.parameters())


ELSEWHERE = {
    "num_classes": "give classes",
    "in_chans": "give channels",
    "in_channels": "give channels",
    "pretrained": TRAINED,
    "weights": TRAINED,
}
"""Arguments of `create_model` in other libraries, and what to do here."""


def refuse_arguments(function: str, unknown: Mapping[str, Any]) -> None:
    """Raise `InputError` for arguments that a function which makes a model does not have."""
    for argument in unknown:
        remedy = ELSEWHERE.get(argument) or choose(argument, ("classes", "channels"))
        raise InputError(f"{function} has no argument {argument!r}: {remedy}")


def create_model(name: str, classes: int = 10, channels: int = 3, **unknown: Any) -> Network:
    """Return the named model with new weights, such as `resnext29` or `resnet30`.

    `channels` are those of its images: 3, or 1 for grey ones. `InputError`: the name or an argument is unknown.
    """
    refuse_arguments("create_model", unknown)
    if name not in MODELS and entry_of(name):
        raise InputError(f"{name} is the name of trained weights: {TRAINED}")
    return build(replace(named_model(name), parameter_budget=ANY), classes, channels)


def list_models() -> list[str]:
    """Return the names that `create_model` takes."""
    return list(MODELS)


def build(settings: Model, classes: int, channels: int = 3) -> Network:
    """Return the model that the settings describe, with torch's default initialisation from its global generator.

    `channels` are those of its images. `InputError`: it has no classes or channels, or more parameters than
    `settings.parameter_budget`. They are counted before any memory is allocated.
    """
    if classes < 1:
        raise InputError(f"classes is {classes}: give at least 1")
    if channels < 1:
        raise InputError(f"channels is {channels}: give 3, or 1 for grey images")
    _require_within_budget(settings, classes, channels)
    return _network(settings, classes, channels)


def restore(
    settings: Model, classes: int, state: dict[str, Tensor], path: str | Path, dtype: torch.dtype = torch.float32
) -> Network:
    """Return the model that the settings describe with the weights `state`, on the CPU and in evaluation mode.

    It takes images with as many channels as the stem of `state`. The global generator is left as it was. `path` is
    where the weights were read from, for errors. `InputError`: they are of another model.
    """
    with torch.random.fork_rng(devices=[]):  # the initial weights are drawn, and then replaced
        model = build(settings, classes, input_channels(state) or 3).to(dtype)
    assign_weights(model, state, path)
    return model.eval()


def _require_within_budget(settings: Model, classes: int, channels: int) -> None:
    alpha = "" if settings.pyramid_alpha is None else ", pyramid_alpha"
    remedy = f"lower blocks, cardinality, bottleneck_width{alpha} or stem"
    try:
        with torch.device("meta"):
            count = parameter_count(_network(settings, classes, channels))
    except (RuntimeError, TypeError) as error:  # a size beyond 64 bits
        raise InputError(f"the model is too large to count its parameters: {remedy}") from error
    budget = settings.parameter_budget
    if count > budget:
        raise InputError(
            f"the model has {count:,} parameters, {count - budget:,} more than parameter_budget {budget:,}: "
            f"{remedy}, or raise parameter_budget"
        )


def _network(settings: Model, classes: int, channels: int) -> Network:
    groups, alpha = settings.cardinality, settings.pyramid_alpha
    width = groups * settings.bottleneck_width
    if alpha is None:
        widths = constant_widths(settings.blocks, width)
    else:
        widths = pyramid_widths(settings.blocks, width, alpha, groups)
    block, kernel = BLOCKS[settings.block], settings.stem_kernel
    padded = alpha is not None
    return Network(block, widths, groups, settings.stem, classes, stem_kernel=kernel, padded=padded, channels=channels)
