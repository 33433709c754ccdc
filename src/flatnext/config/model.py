"""The settings of a network, and the models that have a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from flatnext.config.setting import Settings, require, setting
from flatnext.errors import InputError, choose


@dataclass(frozen=True, kw_only=True)
class Model(Settings):
    """A residual network for small images. The defaults are ResNeXt-29 (32x4d), the model of the baseline paper."""

    block: Literal["resnext", "basic", "preact", "sk"] = setting(
        "resnext",
        "resnext: bottleneck with a grouped 3x3 convolution; sk: bottleneck with selective kernels; basic: two 3x3 "
        "convolutions, as in ResNet; preact: the same with pre-activation",
    )
    blocks: tuple[int, ...] = setting((3, 3, 3), "blocks in each stage", at_least=1)
    cardinality: int = setting(32, "groups of the 3x3 convolutions; 1 for basic and preact", at_least=1)
    bottleneck_width: int = setting(
        4, "channels in a group of the first stage; each later stage has twice as many", at_least=1
    )
    widths: Literal["constant-by-stage", "pyramid"] = setting(
        "constant-by-stage", "pyramid: widths grow from block to block (by pyramid_alpha in total)"
    )
    pyramid_alpha: int | None = setting(
        None,
        "pyramid: channels that the last block has more than the first stage's width",
        at_least=1,
        belongs_to=("widths", "pyramid"),
        needed=True,
    )
    stem: int = setting(32, "channels of the stem (the first convolution)", at_least=1)
    stem_kernel: Literal[1, 3] = setting(1, "kernel size of the stem")
    parameter_budget: int = setting(5_000_000, "refuse to train a model with more parameters than this", at_least=1)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        require(
            self.block in ("resnext", "sk") or self.cardinality == 1,
            f"cardinality is {self.cardinality}: block {self.block} has no groups: set it to 1, and "
            "bottleneck_width to the channels of the first stage",
        )


ABOUT_MODELS: dict[str, tuple[str, Model]] = {
    "resnext29": ("that of the baseline paper: 9 bottlenecks, 32 groups of 4, 8 and 16 channels, 1x1 stem", Model()),
    "resnext20": ("6 bottlenecks", Model(blocks=(2, 2, 2))),
    "resnext11": ("3 bottlenecks, 8 groups: small and fast, to try things", Model(blocks=(1, 1, 1), cardinality=8)),
    # The rest have the parameters of resnext29 to within 3.1 %, and at most 5 million: docs/models.md.
    "resnext29-stem3": ("3x3 stem", Model(stem_kernel=3)),
    "resnext29-64x2d": ("64 groups of 2 channels", Model(cardinality=64, bottleneck_width=2)),
    "resnext26-16x8d": (
        "16 groups of 8 channels; 3, 2 and 3 blocks",
        Model(blocks=(3, 2, 3), cardinality=16, bottleneck_width=8),
    ),
    "resnext29-4x27d": ("4 groups of 27 channels", Model(cardinality=4, bottleneck_width=27)),
    "resnext29-1x75d": (
        "no groups: a ResNet of bottlenecks, 75 channels wide",
        Model(cardinality=1, bottleneck_width=75),
    ),
    "resnext17-32x5d": (
        "wider, shallower: 2, 1 and 2 blocks, 160 channels",
        Model(blocks=(2, 1, 2), bottleneck_width=5),
    ),
    "resnext50-16x6d": (
        "narrower, deeper: 5, 6 and 5 blocks, 96 channels, 16 groups",
        Model(blocks=(5, 6, 5), cardinality=16, bottleneck_width=6),
    ),
    "resnet30": (
        "plain ResNet: 14 basic blocks, 56 channels, 3x3 stem of 16",
        Model(block="basic", blocks=(5, 5, 4), cardinality=1, bottleneck_width=56, stem=16, stem_kernel=3),
    ),
    "preact30": (
        "resnet30 with pre-activation",
        Model(block="preact", blocks=(5, 5, 4), cardinality=1, bottleneck_width=56, stem=16, stem_kernel=3),
    ),
    "sknet44": (
        "selective kernels, 32 groups: 14 blocks, 96 channels",
        Model(block="sk", blocks=(5, 4, 5), bottleneck_width=3),
    ),
    "pyramid38": (
        "12 bottlenecks, 32 groups, 64 to 480 channels wide",
        Model(blocks=(4, 4, 4), bottleneck_width=2, widths="pyramid", pyramid_alpha=432),
    ),
}
"""The named models, each with a line on what it is."""

MODELS: dict[str, Model] = {name: model for name, (_, model) in ABOUT_MODELS.items()}


def named_model(name: str) -> Model:
    """Return the settings of a named model. Raises `InputError` for an unknown name."""
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}: {choose(name, MODELS)} (flatnext models lists them)")
    return MODELS[name]


def with_named_model(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by name, with those of a named `model` in place of its name. What is given besides wins.

    The parameter budget is no part of what a name stands for.
    """
    if "model" not in settings:
        return dict(settings)
    named = vars(named_model(settings["model"]))
    given = {name: value for name, value in settings.items() if name != "model"}
    return {name: value for name, value in named.items() if name != "parameter_budget"} | given


def model_name(model: Model) -> str | None:
    """Return the name of a model, whatever its parameter budget; None if it has none."""
    budget = model.parameter_budget
    return next((name for name, named in MODELS.items() if replace(named, parameter_budget=budget) == model), None)
