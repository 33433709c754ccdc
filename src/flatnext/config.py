"""What a run is: one frozen value, checked when it is made, that goes to JSON and back.

A setting is a field of one of the dataclasses below. Its metadata holds the sentence that `--help` prints and, where
the field's own name is not what users of timm, torchvision and Lightning would type, its flag.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, Literal

from flatnext.errors import InputError


def setting(default: Any, help: str, *, flag: str | None = None) -> Any:
    """Return a dataclass field with a default, a line for `--help`, and the command-line flag (by default its name)."""
    return field(default=default, metadata={"help": help, "flag": flag})


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


@dataclass(frozen=True, kw_only=True)
class Data:
    """The images: which set, how it is split, and how a training image is augmented."""

    dataset: Literal["cifar10", "cifar100", "digits", "folder"] = setting("cifar10", "data set")
    image_size: int | None = setting(None, "resize images to this many pixels a side (default: no; folder: 32)")
    train_images: int | None = setting(None, "train on this many images only, the same share of each class")
    validation: int | None = setting(
        None, "training images held out for choices, the same share of each class; 0: none (default: a tenth)"
    )
    split_seed: int = setting(0, "seed of the split, shared by all seeds of a study")
    crop_padding: int = setting(4, "random crop after padding by this many pixels; 0: no crop")
    flip: bool = setting(True, "random horizontal flip")
    cutout: int = setting(0, "side in pixels of the square that cutout blanks; 0: none")

    def __post_init__(self) -> None:
        """Check the ranges."""
        _require(
            self.image_size is None or (self.image_size >= 4 and self.image_size % 4 == 0),
            f"image_size is {self.image_size}: give a multiple of 4",
        )
        _require(
            self.train_images is None or self.train_images >= 1,
            f"train_images is {self.train_images}: give at least 1, or leave it out for all",
        )
        for name in ("validation", "split_seed", "crop_padding", "cutout"):
            value = getattr(self, name)
            _require(value is None or value >= 0, f"{name} is {value}: it cannot be negative")


@dataclass(frozen=True, kw_only=True)
class Model:
    """A ResNeXt for small images; the defaults are the report's ResNeXt-29 (32x4d)."""

    blocks: tuple[int, ...] = setting((3, 3, 3), "blocks in each stage")
    cardinality: int = setting(32, "groups of the 3x3 convolutions")
    bottleneck_width: int = setting(4, "channels a group in the first stage; doubled a stage")
    stem: int = setting(32, "channels of the 1x1 stem")
    parameter_budget: int = setting(5_000_000, "refuse to train a model with more parameters than this")

    def __post_init__(self) -> None:
        """Check the ranges."""
        _require(
            len(self.blocks) > 0 and min(self.blocks) >= 1, f"blocks is {self.blocks}: give at least one block a stage"
        )
        for name in ("cardinality", "bottleneck_width", "stem", "parameter_budget"):
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}: give at least 1")


@dataclass(frozen=True, kw_only=True)
class Sgd:
    """Plain training: the gradient of the mini-batch, nothing else."""

    name: ClassVar[str] = "sgd"


@dataclass(frozen=True, kw_only=True)
class Amp:
    """Adversarial model perturbation (arXiv 2010.04925); see `flatnext.methods.amp`."""

    name: ClassVar[str] = "amp"
    epsilon: float = setting(0.5, "radius of the ball around the weights")
    inner_lr: float = setting(1.0, "step length of the perturbation, in gradients")
    inner_iter: int = setting(1, "perturbation steps; 0 is plain training")
    ball: Literal["tensor", "global"] = setting("tensor", "one ball a parameter tensor, or one over all parameters")

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("epsilon", "inner_lr", "inner_iter"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value >= 0, f"{name} is {value}: it must be finite and not negative")


Method = Sgd | Amp
METHODS: dict[str, type[Method]] = {cls.name: cls for cls in typing.get_args(Method)}


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Stochastic gradient descent, as `torch.optim.SGD` takes it."""

    learning_rate: float = setting(0.1, "highest learning rate", flag="lr")
    momentum: float = setting(0.9, "momentum")
    nesterov: bool = setting(True, "Nesterov momentum")
    weight_decay: float = setting(5e-4, "weight decay (L2, as torch's SGD applies it)")
    decay_all: bool = setting(False, "decay batch norm's parameters and the biases as well")
    clip_norm: float | None = setting(None, "clip the gradient's norm to this inside each pass")

    def __post_init__(self) -> None:
        """Check the ranges."""
        rate = self.learning_rate
        _require(math.isfinite(rate) and rate > 0, f"learning_rate is {rate}: give a positive number")
        _require(0 <= self.momentum < 1, f"momentum is {self.momentum}: give a number from 0 to below 1")
        _require(
            math.isfinite(self.weight_decay) and self.weight_decay >= 0,
            f"weight_decay is {self.weight_decay}: it must be finite and not negative",
        )
        _require(
            not self.nesterov or self.momentum > 0, "nesterov needs momentum above 0: set momentum, or no-nesterov"
        )
        _require(
            self.clip_norm is None or self.clip_norm > 0,
            f"clip_norm is {self.clip_norm}: give a positive number, or leave it out",
        )


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate over time, after a linear warm-up."""

    schedule: Literal["cosine", "steps", "constant"] = setting("cosine", "learning-rate schedule")
    warmup_epochs: float = setting(0.0, "epochs of linear warm-up from zero")
    t_max: int | None = setting(None, "cosine: epochs of half a period (default: all epochs, so that it ends at zero)")
    milestones: tuple[int, ...] | None = setting(None, "steps: epochs after which the rate is multiplied by gamma")
    gamma: float | None = setting(None, "steps: the factor at a milestone")
    per_epoch: bool = setting(False, "change the rate once an epoch and not every step")

    def __post_init__(self) -> None:
        """Check the ranges, and that no setting of another schedule is given."""
        kind = self.schedule
        _require(
            math.isfinite(self.warmup_epochs) and self.warmup_epochs >= 0,
            f"warmup_epochs is {self.warmup_epochs}: it must be finite and not negative",
        )
        _require(kind == "cosine" or self.t_max is None, f"t_max belongs to schedule=cosine, not to {kind}")
        _require(self.t_max is None or self.t_max >= 1, f"t_max is {self.t_max}: give at least 1")
        for name in ("milestones", "gamma"):
            given = getattr(self, name) is not None
            _require(given or kind != "steps", f"schedule=steps needs {name}")
            _require(not given or kind == "steps", f"{name} belongs to schedule=steps, not to {kind}")
        if self.milestones is not None:
            _require(
                list(self.milestones) == sorted(set(self.milestones)) and all(m >= 0 for m in self.milestones),
                f"milestones is {self.milestones}: give rising epochs",
            )
        _require(self.gamma is None or self.gamma > 0, f"gamma is {self.gamma}: give a positive number")


@dataclass(frozen=True, kw_only=True)
class Config:
    """All that decides the weights at the end of a run; where its files lie and what device it uses is not here."""

    recipe: str = "custom"
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    method: Method = field(default_factory=Sgd)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    epochs: int = setting(100, "passes over the training set")
    batch_size: int = setting(128, "images a step")
    label_smoothing: float = setting(0.0, "label smoothing")
    seed: int = setting(0, "seed of the initial weights, the order and the augmentation")
    precision: Literal["auto", "bf16", "fp32", "fp64"] = setting(
        "auto", "bf16 autocast, or single or double precision; auto: bf16 where the device is faster with it"
    )
    channels_last: bool = setting(True, "keep images and weights channels-last in memory")
    test_curve: bool = setting(True, "evaluate on the test set after each epoch, for the curves alone")

    def __post_init__(self) -> None:
        """Check the ranges."""
        _require(self.epochs >= 1, f"epochs is {self.epochs}: give at least 1")
        _require(self.batch_size >= 1, f"batch_size is {self.batch_size}: give at least 1")
        _require(self.seed >= 0, f"seed is {self.seed}: it cannot be negative")
        _require(
            0 <= self.label_smoothing < 1,
            f"label_smoothing is {self.label_smoothing}: give a number from 0 to below 1",
        )

    def to_json(self) -> dict[str, Any]:
        """Return the config as a dict that `json` can write."""
        content = asdict(self)
        content["method"] = {"name": self.method.name, **content["method"]}
        return json.loads(json.dumps(content))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Config:
        """Return the config that `to_json` wrote. An unknown key, or a value of another type, is an `InputError`."""
        return _parse(cls, content, "config")

    def override(self, settings: Mapping[str, Any]) -> Config:
        """Return this config with some settings changed, each named by its field alone, as on the command line.

        `method` and `schedule` may be among them: changing one drops the settings that belong to the old one. A
        setting that the config does not have (such as `epsilon` for plain SGD) is an `InputError`.
        """
        settings = dict(settings)
        config = self
        method = settings.pop("method", self.method.name)
        if method not in METHODS:
            raise InputError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
        if method != self.method.name:
            config = replace(config, method=METHODS[method]())
        if settings.get("schedule", config.schedule.schedule) != config.schedule.schedule:
            settings = {"t_max": None, "milestones": None, "gamma": None, **settings}
        changed: dict[str, Any] = {}
        for item in fields(config):
            part = getattr(config, item.name)
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
        return replace(config, **changed)


def _parse(kind: Any, value: Any, name: str) -> Any:
    """Return `value`, as `json` read it, as the annotated type `kind`; an `InputError` names a setting that is not."""
    origin, choices = typing.get_origin(kind), typing.get_args(kind)
    if kind is Method or kind == Method:
        rest = dict(_mapping(value, name))
        method = rest.pop("name", None)
        if method not in METHODS:
            raise InputError(f"{name}: unknown method {method!r}: choose one of {', '.join(METHODS)}")
        return _parse(METHODS[method], rest, name)
    if is_dataclass(kind):
        return _parse_dataclass(kind, _mapping(value, name), name)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _parse(next(c for c in choices if c is not type(None)), value, name)
    if origin is Literal:
        if value not in choices:
            raise InputError(f"{name} is {value!r}: choose one of {', '.join(map(str, choices))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{name} is {value!r}: give a list")
        return tuple(_parse(choices[0], item, name) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise InputError(f"{name} is {value!r}: give a value of type {kind.__name__}")
    return value


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{name} is {value!r}: give an object with settings by name")
    return value


def _parse_dataclass(kind: Any, content: Mapping[str, Any], name: str) -> Any:
    known = typing.get_type_hints(kind)
    names = [f.name for f in fields(kind)]
    for key in content:
        if key not in names:
            raise InputError(f"{name} has no setting {key!r}: choose among {', '.join(names) or 'none'}")
    return kind(**{key: _parse(known[key], value, f"{name}.{key}") for key, value in content.items()})
