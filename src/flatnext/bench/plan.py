"""What a benchmark measures: its parts, its contenders, and how often."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from flatnext import config
from flatnext.config import RECIPES, Amp, Config, Method, Model, recipe
from flatnext.config.setting import Settings, require
from flatnext.errors import InputError

METHODS: dict[str, Method] = {
    **{name: kind() for name, kind in config.METHODS.items()},
    "amp-global": Amp(ball="global"),
    "amp-norm": Amp(only="norm"),
    "amp-every-4": Amp(perturb_every=4),
    "amp-inner-iter-2": Amp(inner_iter=2),
    "amp-ascent-share-0.5": Amp(ascent_share=0.5),
}
PARTS = ("training", "inference", "memory", "startup", "convolution")
ON_THE_MODEL = ("training", "inference", "memory", "convolution")
ANY_SIZE = Model(parameter_budget=2**53)


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
    return {name: settings.override(common) for name, settings in configs.items()}
