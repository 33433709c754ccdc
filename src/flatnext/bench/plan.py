"""What a benchmark measures: its parts, its contenders, and how often."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from flatnext import config
from flatnext.config import RECIPES, Amp, Config, Method, Model, most_of, recipe
from flatnext.config.setting import Settings, require, setting
from flatnext.errors import InputError

if TYPE_CHECKING:
    import torch

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
class BenchPlan(Settings):
    """What to measure; every field but `model` is a flag of `flatnext bench`. `InputError` for a value out of range."""

    parts: tuple[str, ...] = ("training", "inference", "memory")
    methods: tuple[str, ...] = tuple(METHODS)
    recipes: tuple[str, ...] = ()
    rounds: int = setting(8, "how often each contender is measured", at_least=1)
    steps: int | None = setting(None, "training steps in each round (default 1 on a CPU, 20 on a GPU)", at_least=1)
    batch_size: int = setting(64, "images a step; memory is measured with twice as many too", at_least=2)
    image_size: int = setting(32, "pixels a side", at_least=1)
    device: str = setting("auto", "auto, cpu, cuda, cuda:1 ...")
    precision: Literal["auto", "bf16", "fp32", "fp64"] = setting(
        "auto", "precision of this project; that of the baseline is fp32"
    )
    data_dir: str = setting(".data", "startup: folder of CIFAR-10; without it, digits are used")
    model: Model = ANY_SIZE

    def __post_init__(self) -> None:
        """Check the ranges and the names."""
        super().__post_init__()
        for field, known in (("parts", PARTS), ("methods", METHODS), ("recipes", RECIPES)):
            names = getattr(self, field)
            unknown = [name for name in names if name not in known]
            require(not unknown, f"{field} has {unknown and unknown[0]!r}: choose among {', '.join(known)}")
            require(len(set(names)) == len(names), f"{field} names {', '.join(names)}: name each once")
        require(len(self.parts) > 0, f"parts is empty: choose among {', '.join(PARTS)}")
        block, widths = self.model.block, self.model.widths
        require(
            "inference" not in self.parts or block in ("resnext", "basic"),
            f"part inference does not know block {block}: leave it out of --parts",
        )
        require(  # their shortcuts are padded
            "convolution" not in self.parts or block not in ("basic", "preact") or widths == "constant-by-stage",
            f"part convolution: block {block} with widths {widths} has no grouped and no 1x1 convolution",
        )


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A plan on a device: what each part measures with. `say` shows how far it is."""

    plan: BenchPlan
    device: torch.device
    precision: str
    say: Callable[[str], None] = lambda text: None

    @property
    def steps(self) -> int:
        """Return the training steps of a turn. A GPU's steps are short beside the wait at the end of a turn."""
        return self.plan.steps or (1 if self.device.type == "cpu" else 20)


def group_rounds(interval: int, steps: int, rounds: int) -> int:
    """Return how many rounds of `steps` steps make whole periods of a method that perturbs every `interval`-th step.

    `InputError`: there are fewer rounds than that.
    """
    group = interval // math.gcd(interval, steps)
    if rounds < group:
        raise InputError(
            f"rounds is {rounds}: a method with perturb_every {interval} has a whole period only in {group} rounds of "
            f"{steps} steps: raise --rounds or --steps, or leave it out of --methods"
        )
    return group


def training_configs(plan: BenchPlan, device_type: str = "cpu") -> dict[str, Config]:
    """Return the config of each contender of this project by name, plain SGD first, with which all are compared.

    On CUDA, where steps are recorded as graphs, contenders named `eager` are measured without. The learning rate is
    small, so that random labels do not make the loss infinite, and the epochs are so many that no schedule ends.
    """
    common = {
        "batch_size": plan.batch_size,
        "precision": plan.precision,
        "learning_rate": 0.001,
        "epochs": 1000,
        "early_sizes": None,
        **{field.name: getattr(plan.model, field.name) for field in fields(plan.model)},
    }
    methods = dict.fromkeys(("sgd", *plan.methods))
    configs = {name: Config(recipe=name, method=METHODS[name]) for name in methods}
    configs |= {f"recipe {name}": recipe(name) for name in plan.recipes}
    if device_type == "cuda":
        recorded = [name for name in ("sgd", "amp") if name in configs]
        configs |= {f"{name}, eager": configs[name].override({"cuda_graph": False}) for name in recorded}
    most = most_of(plan.image_size)
    fitting = {name: {key: min(getattr(c.data, key), most[key]) for key in most} for name, c in configs.items()}
    return {name: settings.override(common | fitting[name]) for name, settings in configs.items()}
