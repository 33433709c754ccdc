"""All that decides the outcome of a run, in one frozen value."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from flatnext.config.method import METHODS, Method, Sgd
from flatnext.config.setting import Settings, require, setting
from flatnext.errors import InputError
from flatnext.schema import dump, parse


@dataclass(frozen=True, kw_only=True)
class Data(Settings):
    """The images: which set, how it is split, and how a training image is augmented."""

    dataset: Literal["cifar10", "cifar100", "digits", "folder"] = setting("cifar10", "data set")
    image_size: int | None = setting(None, "resize images to this many pixels a side (default: no; folder: 32)")
    early_sizes: tuple[int, ...] | None = setting(
        None, "pixels a side of the training images in each of the first epochs (default: all epochs at full size)"
    )
    train_images: int | None = setting(None, "train on this many images only, the same share of each class")
    validation: int | None = setting(
        None, "training images held out for choices, the same share of each class; 0: none (default: a tenth)"
    )
    split_seed: int = setting(0, "seed of the split, shared by all seeds of a study")
    crop_padding: int = setting(4, "random crop after padding by this many pixels; 0: no crop")
    flip: Literal["none", "random", "alternating"] = setting(
        "random", "horizontal flip: at random, or each image in every other epoch"
    )
    augment: Literal["none", "trivial", "randaugment"] = setting(
        "none", "before crop and flip: TrivialAugmentWide, or RandAugment (two operations at level 9)"
    )
    cutout: int = setting(0, "side in pixels of the square that cutout blanks; 0: none")
    mixup: float = setting(0.0, "alpha of mixup; with cutmix too, a coin chooses one for each batch; 0: none")
    cutmix: float = setting(0.0, "alpha of CutMix; 0: none")

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        require(
            self.image_size is None or (self.image_size >= 4 and self.image_size % 4 == 0),
            f"image_size is {self.image_size}: give a multiple of 4",
        )
        require(
            self.early_sizes is None or (len(self.early_sizes) > 0 and min(self.early_sizes) >= 1),
            f"early_sizes is {self.early_sizes}: give a positive number for each early epoch, or leave it out",
        )
        require(
            self.train_images is None or self.train_images >= 1,
            f"train_images is {self.train_images}: give at least 1, or leave it out for all",
        )
        for name in ("validation", "split_seed", "crop_padding", "cutout"):
            value = getattr(self, name)
            require(value is None or 0 <= value < 2**31, f"{name} is {value}: give a number from 0 to below 2**31")
        for name in ("mixup", "cutmix"):
            alpha = getattr(self, name)
            require(alpha == 0 or 0.01 <= alpha <= 100, f"{name} is {alpha}: give 0, or a number from 0.01 to 100")


@dataclass(frozen=True, kw_only=True)
class Model(Settings):
    """A residual network for small images; the defaults are the report's ResNeXt-29 (32x4d)."""

    block: Literal["resnext", "basic", "preact", "sk"] = setting(
        "resnext",
        "resnext: bottleneck with a grouped 3x3; sk: with selective kernels in its place; basic: two 3x3, as in plain "
        "ResNets; preact: the same with pre-activation",
    )
    blocks: tuple[int, ...] = setting((3, 3, 3), "blocks in each stage")
    cardinality: int = setting(32, "groups of the 3x3 convolutions; basic and preact take 1")
    bottleneck_width: int = setting(4, "channels a group in the first stage; doubled a stage")
    widths: Literal["constant-by-stage", "pyramid"] = setting(
        "constant-by-stage", "pyramid: widths grow by pyramid_alpha in all, from block to block; shortcuts add zeros"
    )
    pyramid_alpha: int | None = setting(
        None, "pyramid: channels by which the last block's width exceeds the base width"
    )
    stem: int = setting(32, "channels of the stem")
    stem_kernel: int = setting(1, "pixels a side of the stem's convolution: 1 or 3")
    parameter_budget: int = setting(5_000_000, "refuse to train a model with more parameters than this")

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        require(
            len(self.blocks) > 0 and min(self.blocks) >= 1, f"blocks is {self.blocks}: give at least one block a stage"
        )
        for name in ("cardinality", "bottleneck_width", "stem", "parameter_budget"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}: give at least 1")
        require(self.stem_kernel in (1, 3), f"stem_kernel is {self.stem_kernel}: give 1 or 3")
        require(
            self.block in ("resnext", "sk") or self.cardinality == 1,
            f"cardinality is {self.cardinality}: block {self.block} has no groups: set it to 1, and "
            "bottleneck_width to the channels of the first stage",
        )
        alpha, pyramid = self.pyramid_alpha, self.widths == "pyramid"
        require(
            pyramid or alpha is None, f"pyramid_alpha belongs to widths=pyramid, not to {self.widths}: set it to none"
        )
        require(not pyramid or alpha is not None, "widths=pyramid needs pyramid_alpha")
        require(alpha is None or alpha >= 1, f"pyramid_alpha is {alpha}: give at least 1")


@dataclass(frozen=True, kw_only=True)
class Optimizer(Settings):
    """Stochastic gradient descent, as `torch.optim.SGD` takes it."""

    learning_rate: float = setting(0.1, "highest learning rate", flag="lr")
    momentum: float = setting(0.9, "momentum")
    nesterov: bool = setting(True, "Nesterov momentum")
    weight_decay: float = setting(5e-4, "weight decay (L2, as torch's SGD applies it)")
    decay_all: bool = setting(False, "decay batch norm's parameters and the biases as well")
    clip_norm: float | None = setting(None, "clip the gradient's norm to this inside each pass")

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        rate = self.learning_rate
        require(math.isfinite(rate) and rate > 0, f"learning_rate is {rate}: give a positive number")
        require(0 <= self.momentum < 1, f"momentum is {self.momentum}: give a number from 0 to below 1")
        require(
            math.isfinite(self.weight_decay) and self.weight_decay >= 0,
            f"weight_decay is {self.weight_decay}: it must be finite and not negative",
        )
        require(not self.nesterov or self.momentum > 0, "nesterov needs momentum above 0: set momentum, or no-nesterov")
        require(
            self.clip_norm is None or self.clip_norm > 0,
            f"clip_norm is {self.clip_norm}: give a positive number, or leave it out",
        )


@dataclass(frozen=True, kw_only=True)
class Schedule(Settings):
    """The learning rate over time, after a linear warm-up."""

    schedule: Literal["cosine", "linear", "steps", "constant"] = setting(
        "cosine", "learning-rate schedule; cosine and linear end at zero"
    )
    warmup_epochs: float = setting(0.0, "epochs of linear warm-up from zero")
    t_max: int | None = setting(None, "cosine: epochs of half a period (default: all epochs, so that it ends at zero)")
    milestones: tuple[int, ...] | None = setting(None, "steps: epochs after which the rate is multiplied by gamma")
    gamma: float | None = setting(None, "steps: the factor at a milestone")
    per_epoch: bool = setting(False, "after the warm-up, change the rate once an epoch and not every step")

    def __post_init__(self) -> None:
        """Check the ranges, and that no setting of another schedule is given."""
        super().__post_init__()
        kind = self.schedule
        require(
            math.isfinite(self.warmup_epochs) and self.warmup_epochs >= 0,
            f"warmup_epochs is {self.warmup_epochs}: it must be finite and not negative",
        )
        require(kind == "cosine" or self.t_max is None, f"t_max belongs to schedule=cosine, not to {kind}")
        require(self.t_max is None or self.t_max >= 1, f"t_max is {self.t_max}: give at least 1")
        for name in ("milestones", "gamma"):
            given = getattr(self, name) is not None
            require(given or kind != "steps", f"schedule=steps needs {name}")
            require(not given or kind == "steps", f"{name} belongs to schedule=steps, not to {kind}")
        if self.milestones is not None:
            require(
                list(self.milestones) == sorted(set(self.milestones)) and all(m >= 0 for m in self.milestones),
                f"milestones is {self.milestones}: give rising epochs",
            )
        require(self.gamma is None or self.gamma > 0, f"gamma is {self.gamma}: give a positive number")


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """All that decides the weights at the end of a run; where its files lie and what device it uses is not here."""

    recipe: str = "custom"
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    method: Method = field(default_factory=Sgd)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    epochs: int = setting(100, "passes over the training set")
    batch_size: int = setting(128, "images a step, over all processes")
    grad_accum_steps: int = setting(1, "micro-batches a step: the same gradient and perturbation in less memory")
    label_smoothing: float = setting(0.0, "label smoothing")
    ema: float = setting(
        0.0, "decay a step of a moving average of the weights, which is then evaluated and stored; 0: none"
    )
    seed: int = setting(0, "seed of the initial weights, the order and the augmentation")
    precision: Literal["auto", "bf16", "fp32", "fp64"] = setting(
        "auto", "bf16 autocast, or single or double precision; auto: bf16 where the device is faster with it"
    )
    channels_last: bool = setting(True, "keep images and weights channels-last in memory")
    cuda_graph: bool = setting(True, "on a CUDA GPU, with one process: record the steps once and replay them")
    test_curve: bool = setting(True, "evaluate on the test set after each epoch, for the curves alone")
    evaluate_every: int = setting(1, "evaluate after every k-th epoch only, and after the last")

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        require(self.epochs >= 1, f"epochs is {self.epochs}: give at least 1")
        require(self.batch_size >= 1, f"batch_size is {self.batch_size}: give at least 1")
        require(
            1 <= self.grad_accum_steps <= self.batch_size,
            f"grad_accum_steps is {self.grad_accum_steps}: give a number from 1 to batch_size",
        )
        require(self.evaluate_every >= 1, f"evaluate_every is {self.evaluate_every}: give at least 1")
        require(0 <= self.seed < 2**31, f"seed is {self.seed}: give a number from 0 to below 2**31")
        require(
            re.fullmatch(r"\w[\w.+-]*", self.recipe) is not None,
            f"recipe is {self.recipe!r}: give a name of letters, digits, '.', '+', '-' and '_', as it names a folder",
        )
        require(
            self.method.name != "momentum-amp" or self.optimizer.momentum > 0,
            "method momentum-amp needs momentum above 0, along which it perturbs: set momentum, or choose amp",
        )
        early = len(self.data.early_sizes or ())
        require(
            early <= self.epochs,
            f"early_sizes has {early} epochs: there are {self.epochs} in all: give fewer sizes, or none",
        )
        warmup, t_max = self.schedule.warmup_epochs, self.schedule.t_max
        require(warmup <= self.epochs, f"warmup_epochs is {warmup}: there are {self.epochs} epochs in all")
        require(t_max is None or warmup < t_max, f"warmup_epochs is {warmup}: it must be less than t_max, {t_max}")
        require(
            0 <= self.label_smoothing < 1,
            f"label_smoothing is {self.label_smoothing}: give a number from 0 to below 1",
        )
        require(0 <= self.ema < 1, f"ema is {self.ema}: give a number from 0 to below 1, such as 0.999")

    def to_json(self) -> dict[str, Any]:
        """Return the config as a dict that `json` can write."""
        return dump(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Config:
        """Return the config that `to_json` wrote. An unknown key, or a value of another type, is an `InputError`."""
        return parse(cls, _with_present_names(content), "config")

    def override(self, settings: Mapping[str, Any]) -> Config:
        """Return this config with some settings changed, each named by its field alone, as on the command line.

        `method` and `schedule` may be among them: changing one drops the settings that belong to the old one. A
        setting that the config does not have (such as `epsilon` for plain SGD) is an `InputError`.
        """
        settings = dict(settings)
        method = settings.pop("method", self.method.name)
        if method not in METHODS:
            raise InputError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
        changed: dict[str, Any] = {}
        if method != self.method.name:
            changed = {"recipe": f"{self.recipe}+{method}", "method": METHODS[method]()}
        if settings.get("schedule", self.schedule.schedule) != self.schedule.schedule:
            settings = {"t_max": None, "milestones": None, "gamma": None, **settings}
        for item in fields(self):
            part = changed.get(item.name, getattr(self, item.name))
            if is_dataclass(part) and not isinstance(part, type):
                own = {f.name: settings.pop(f.name) for f in fields(part) if f.name in settings}
                if own:
                    changed[item.name] = replace(part, **own)
            elif item.name in settings:
                changed[item.name] = settings.pop(item.name)
        if settings:
            owners = [m for m, c in METHODS.items() if next(iter(settings)) in {f.name for f in fields(c)}]
            where = f": it belongs to method {' and '.join(owners)}" if owners else ""
            raise InputError(f"method {method} has no setting {next(iter(settings))!r}{where}")
        return replace(self, **changed)


RENAMED = {
    "accumulate": "grad_accum_steps",
    "graph": "cuda_graph",
    "interval": "perturb_every",
    "per_rank": "m_sharpness",
}
"""Settings by the names that they had in the files of version 0.1.0."""


def _with_present_names(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a config with the settings of earlier versions as they are called and written now."""
    present = {RENAMED.get(name, name): value for name, value in content.items()}
    if isinstance(method := present.get("method"), Mapping):
        present["method"] = {RENAMED.get(name, name): value for name, value in method.items()}
    part = present.get("data")
    if isinstance(part, Mapping) and isinstance(part.get("flip"), bool):
        present["data"] = {**part, "flip": "random" if part["flip"] else "none"}
    return present
