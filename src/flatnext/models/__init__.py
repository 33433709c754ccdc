"""The networks, their tables, and reading their weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from flatnext import recipes
from flatnext.config import Model
from flatnext.errors import InputError
from flatnext.models.catalog import find_weights, format_shipped, shipped
from flatnext.models.inference import inference_copy, for_inference
from flatnext.models.network import MakesBlocks, Network, constant_widths, pyramid_widths
from flatnext.models.origin import Origin, read_origin
from flatnext.models.resnet import BasicBlock, PreActBlock
from flatnext.models.resnext import Block, ResNeXt, resnext29
from flatnext.models.selective_kernel import SelectiveKernelBlock
from flatnext.models.summary import format_summary, summarize, table1
from flatnext.models.weights import assign_weights, load_weights, read_weights

__all__ = [
    "BLOCKS",
    "Network",
    "Origin",
    "ResNeXt",
    "inference_copy",
    "build",
    "create_model",
    "find_weights",
    "for_inference",
    "format_shipped",
    "format_summary",
    "list_models",
    "load_weights",
    "parameter_count",
    "read_origin",
    "read_weights",
    "resnext29",
    "restore",
    "shipped",
    "summarize",
    "table1",
]

BLOCKS: dict[str, MakesBlocks] = {
    "resnext": Block,
    "basic": BasicBlock,
    "preact": PreActBlock,
    "sk": SelectiveKernelBlock,
}


def parameter_count(model: nn.Module) -> int:
    """Return the number of trainable and frozen parameters; batch norm's running statistics are not among them."""
    return sum(parameter.numel() for parameter in model.parameters())


def create_model(name: str, classes: int = 10) -> Network:
    """Return the named model with new weights, such as `resnext29` or `resnet30`. `InputError`: the name is unknown."""
    return build(recipes.model(name), classes)


def list_models() -> list[str]:
    """Return the names that `create_model` takes."""
    return list(recipes.MODELS)


def build(settings: Model, classes: int) -> Network:
    """Return the model that the settings describe, with torch's default initialisation from its global generator.

    `InputError`: it has no classes, or more parameters than `settings.parameter_budget`. They are counted before any
    memory is taken.
    """
    if classes < 1:
        raise InputError(f"classes is {classes}: give at least 1")
    pyramid = settings.widths == "pyramid"
    remedy = f"lower blocks, cardinality, bottleneck_width{', pyramid_alpha' if pyramid else ''} or stem"
    try:
        with torch.device("meta"):
            count = parameter_count(_network(settings, classes))
    except (RuntimeError, TypeError) as error:  # a size beyond 64 bits
        raise InputError(f"the model is too large to count its parameters: {remedy}") from error
    budget = settings.parameter_budget
    if count > budget:
        raise InputError(
            f"the model has {count:,} parameters, {count - budget:,} more than parameter_budget {budget:,}: "
            f"{remedy}, or raise parameter_budget"
        )
    return _network(settings, classes)


def restore(
    settings: Model, classes: int, state: dict[str, Tensor], path: str | Path, dtype: torch.dtype = torch.float32
) -> Network:
    """Return the model that the settings describe with the weights `state`, on the CPU and in evaluation mode.

    `path` is where they were read from, for errors. `InputError`: they are of another model. Draws no random number.
    """
    with torch.random.fork_rng(devices=[]):  # the initial weights are drawn, and then replaced
        model = build(settings, classes).to(dtype)
    assign_weights(model, state, path)
    return model.eval()


def _network(settings: Model, classes: int) -> Network:
    groups, alpha = settings.cardinality, settings.pyramid_alpha
    width = groups * settings.bottleneck_width
    return Network(
        BLOCKS[settings.block],
        constant_widths(settings.blocks, width)
        if alpha is None
        else pyramid_widths(settings.blocks, width, alpha, groups),
        groups,
        settings.stem,
        classes,
        stem_kernel=settings.stem_kernel,
        padded=alpha is not None,
    )
