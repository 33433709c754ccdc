"""What a benchmark measures: its parts, its contenders, and how often."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from flatnext.config import RECIPES, Amp, Config, Method, Model, Sgd, recipe
from flatnext.config.method import Adversarial, Asam, MomentumAmp, Rmp, Sam
from flatnext.config.setting import Settings, require
from flatnext.errors import InputError
from flatnext.flags import add_setting_flags, setting_overrides

METHODS: dict[str, Method] = {
    "sgd": Sgd(),
    "momentum-amp": MomentumAmp(),
    "amp": Amp(),
    "amp-global": Amp(ball="global"),
    "amp-norm": Amp(only="norm"),
    "amp-every-4": Amp(perturb_every=4),
    "amp-inner-iter-2": Amp(inner_iter=2),
    "amp-ascent-share-0.5": Amp(ascent_share=0.5),
    "sam": Sam(),
    "asam": Asam(),
    "rmp": Rmp(),
    "adversarial": Adversarial(),
}
PARTS = ("training", "inference", "memory", "startup", "convolution")
ON_THE_MODEL = ("training", "inference", "memory", "convolution")
ANY_SIZE = Model(parameter_budget=2**53)
# A flag, and the parts in which it changes something.
USED_BY = {
    "rounds": ("training", "inference", "startup", "convolution"),
    "steps": ("training",),
    "methods": ("training",),
    "recipes": ("training",),
    "data_dir": ("startup",),
    **dict.fromkeys(("batch_size", "image_size", "precision", "model"), ON_THE_MODEL),
}


@dataclass(frozen=True, kw_only=True)
class Plan(Settings):
    """What to measure; every field but `model` is a flag of `flatnext bench`. `InputError` for a value out of range."""

    parts: tuple[str, ...] = ("training", "inference", "memory")
    methods: tuple[str, ...] = tuple(METHODS)
    recipes: tuple[str, ...] = ()
    rounds: int = 8
    steps: int | None = None
    batch_size: int = 64
    image_size: int = 32
    device: str = "auto"
    precision: Literal["auto", "bf16", "fp32", "fp64"] = "auto"
    data_dir: str = ".data"
    model: Model = ANY_SIZE

    def __post_init__(self) -> None:
        """Check the ranges and the names."""
        super().__post_init__()
        for name, least in (("rounds", 1), ("batch_size", 2), ("image_size", 1)):
            require(getattr(self, name) >= least, f"{name} is {getattr(self, name)}: give at least {least}")
        require(self.steps is None or self.steps >= 1, f"steps is {self.steps}: give at least 1")
        for name, known in (("parts", PARTS), ("methods", METHODS), ("recipes", RECIPES)):
            chosen = getattr(self, name)
            unknown = [each for each in chosen if each not in known]
            require(not unknown, f"{name} has {unknown and unknown[0]!r}: choose among {', '.join(known)}")
            require(len(set(chosen)) == len(chosen), f"{name} names {', '.join(chosen)}: name each once")
        require(len(self.parts) > 0, f"parts is empty: choose among {', '.join(PARTS)}")
        block, widths = self.model.block, self.model.widths
        require(
            "inference" not in self.parts or block in ("resnext", "basic"),
            f"part inference does not know block {block}: leave it out of --parts",
        )
        require(
            "convolution" not in self.parts or (block == "resnext" and widths == "constant-by-stage"),
            f"part convolution does not know block {block} with widths {widths}: leave it out of --parts",
        )

    def methods_by_name(self) -> dict[str, Method]:
        """Return the methods to measure; plain SGD is always the first, since the others are compared with it."""
        return {name: METHODS[name] for name in dict.fromkeys(("sgd", *self.methods))}

    def steps_on(self, device_type: str) -> int:
        """Return the training steps of a turn. A GPU's steps are short beside the wait at the end of a turn."""
        return self.steps or (1 if device_type == "cpu" else 20)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as a dict that `json` can write."""
        return asdict(self)


def group_rounds(interval: int, steps: int, rounds: int) -> int:
    """Return how many rounds of `steps` steps make whole periods of a method that perturbs every `interval`-th step.

    `InputError`: there are fewer rounds than that.
    """
    group = interval // math.gcd(interval, steps)
    if rounds < group:
        raise InputError(
            f"rounds is {rounds}: a method with interval {interval} has a whole period only in {group} rounds of "
            f"{steps} steps: raise --rounds or --steps, or leave it out of --methods"
        )
    return group


def add_bench_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a plan. Unset flags are absent when parsed."""

    def flag(name: str, help: str, **options: Any) -> None:
        parser.add_argument(name, default=argparse.SUPPRESS, help=help, **options)

    flag("--parts", "what to measure (default training inference memory)", nargs="+", choices=PARTS)
    flag("--methods", "methods to train with beside sgd (default all)", nargs="+", choices=METHODS, metavar="NAME")
    flag("--recipes", "recipes to train with as well, at the same size", nargs="+", choices=RECIPES, metavar="NAME")
    flag("--rounds", "turns of each contender (default 8)", type=int, metavar="N")
    flag("--steps", "training steps a turn (default 1 on a CPU, 20 on a GPU)", type=int, metavar="N")
    flag("--batch-size", "images a step (default 64; memory is measured at twice this)", type=int, metavar="N")
    flag("--image-size", "pixels a side (default 32)", type=int, metavar="N")
    flag("--device", "auto, cpu, cuda, cuda:1 ... (default auto)", metavar="NAME")
    flag("--precision", "this project's; the report's is fp32 (default auto)", choices=["auto", "bf16", "fp32", "fp64"])
    flag("--data-dir", "data for start-up, CIFAR-10 if it is there, or else digits (default .data)", metavar="DIR")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured, every sample")
    add_setting_flags(parser, "model", without=["parameter_budget"])


def plan_from_flags(given: Mapping[str, Any]) -> Plan:
    """Return the plan that the parsed flags ask for. `InputError` for a flag that none of its parts would use."""
    shape = setting_overrides(given)
    settings = {item.name: given[item.name] for item in fields(Plan) if item.name in given and item.name != "model"}
    if shape:
        settings["model"] = Config().override({**shape, "parameter_budget": 2**53}).model
    plan = Plan(**settings)
    for name, parts in USED_BY.items():
        require(
            name not in settings or bool(set(parts) & set(plan.parts)),
            f"{name} is of no use to {' and '.join(plan.parts)}: leave it out, or add {' or '.join(parts)} to --parts",
        )
    return plan


def training_configs(plan: Plan, device_type: str = "cpu") -> dict[str, Config]:
    """Return what each contender trains, by its name. On CUDA, where steps are recorded, `eager` ones are not.

    The learning rate is small in all, so that random labels do not make a loss infinite. The epochs are so many that a
    schedule does not end.
    """
    common = {
        "batch_size": plan.batch_size,
        "precision": plan.precision,
        "learning_rate": 0.001,
        "epochs": 1000,
        "early_sizes": None,
        **{item.name: getattr(plan.model, item.name) for item in fields(plan.model)},
    }
    configs = {name: Config(recipe=name, method=method) for name, method in plan.methods_by_name().items()}
    configs |= {f"recipe {name}": recipe(name) for name in plan.recipes}
    if device_type == "cuda":
        configs |= {
            f"{name}, eager": configs[name].override({"cuda_graph": False})
            for name in ("sgd", "amp")
            if name in configs
        }
    return {name: config.override(common) for name, config in configs.items()}
