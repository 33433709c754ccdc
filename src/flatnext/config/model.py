"""The settings of a network, and the models that have a name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flatnext.config.setting import Settings, require, setting
from flatnext.errors import InputError


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


MODELS: dict[str, Model] = {
    "resnext29": Model(),
    "resnext20": Model(blocks=(2, 2, 2)),
    "resnext11": Model(blocks=(1, 1, 1), cardinality=8),
    # The rest have the parameters of resnext29 to within 3.1 %, and at most 5 million: docs/models.md.
    "resnext29-stem3": Model(stem_kernel=3),
    "resnext29-64x2d": Model(cardinality=64, bottleneck_width=2),
    "resnext26-16x8d": Model(blocks=(3, 2, 3), cardinality=16, bottleneck_width=8),
    "resnext29-4x27d": Model(cardinality=4, bottleneck_width=27),
    "resnext29-1x75d": Model(cardinality=1, bottleneck_width=75),
    "resnext17-32x5d": Model(blocks=(2, 1, 2), bottleneck_width=5),
    "resnext50-16x6d": Model(blocks=(5, 6, 5), cardinality=16, bottleneck_width=6),
    "resnet30": Model(block="basic", blocks=(5, 5, 4), cardinality=1, bottleneck_width=56, stem=16, stem_kernel=3),
    "preact30": Model(block="preact", blocks=(5, 5, 4), cardinality=1, bottleneck_width=56, stem=16, stem_kernel=3),
    "sknet44": Model(block="sk", blocks=(5, 4, 5), bottleneck_width=3),
    "pyramid38": Model(blocks=(4, 4, 4), bottleneck_width=2, widths="pyramid", pyramid_alpha=432),
}


def named_model(name: str) -> Model:
    """Return the settings of a named model. Raises `InputError` for an unknown name."""
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}: choose one of {', '.join(MODELS)}")
    return MODELS[name]
