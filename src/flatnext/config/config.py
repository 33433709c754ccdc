"""The config of a run: everything that decides its outcome, in one frozen value."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from flatnext.config.data import LARGEST, Data
from flatnext.config.method import METHODS, Method, Sgd
from flatnext.config.model import Model, with_named_model
from flatnext.config.names import RENAMED, SECTIONS, remedy, require_names
from flatnext.config.optimizer import OF_OPTIMIZER, Optimizer, Schedule
from flatnext.config.setting import Settings, described, require, setting
from flatnext.config.start import Start, completed
from flatnext.errors import InputError, choose
from flatnext.schema import dump, parse
from flatnext.words import counted


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Everything that decides the weights at the end of a run. Where files are and which device is used is not here."""

    recipe: str = "custom"
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    start: Start = field(default_factory=Start)
    method: Method = field(default_factory=Sgd)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    epochs: int = setting(100, "passes over the training set", at_least=1)
    batch_size: int = setting(128, "images a step, all processes together", at_least=1)
    grad_accum_steps: int = setting(
        1,
        "split each batch into N micro-batches, to save memory; the step is the same but for batch norm, which sees a "
        "micro-batch",
        at_least=1,
    )
    label_smoothing: float = setting(0.0, "label smoothing", at_least=0, below=1)
    class_weights: str = setting(
        "none",
        "weights of the classes in the training loss: none, balanced (the rarer the heavier), or a number for each "
        "class, in the order of their names: 1,2.5,1",
    )
    ema: float = setting(
        0.0,
        "evaluate and save an exponential moving average of the weights with this decay a step, such as 0.999; 0: none",
        at_least=0,
        below=1,
    )
    seed: int = setting(
        0, "seed of the initial weights, the order of the images and their augmentation", at_least=0, at_most=LARGEST
    )
    precision: Literal["auto", "bf16", "fp32", "fp64"] = setting(
        "auto", "bf16 autocast, single or double precision; auto: bf16 where it is faster than fp32"
    )
    channels_last: bool = setting(True, "keep images and weights in channels-last memory format")
    cuda_graph: bool = setting(True, "record the step as a CUDA graph (on a GPU, with one process)")
    test_curve: bool = setting(True, "evaluate on the test set after each epoch as well, for the curves only")
    evaluate_every: int = setting(1, "evaluate only after every N-th epoch, and after the last", at_least=1)

    def __post_init__(self) -> None:
        """Check the settings, and those that limit each other."""
        super().__post_init__()
        require(
            re.fullmatch(r"\w[\w.+-]*", self.recipe) is not None,
            f"recipe is {self.recipe!r}: give a name of letters, digits, '.', '+', '-' and '_', as it names a folder",
        )
        require(
            self.grad_accum_steps <= self.batch_size,
            f"grad_accum_steps is {self.grad_accum_steps}: give a number from 1 to batch_size",
        )
        require(
            not self.method.needs_momentum or self.optimizer.momentum > 0,
            f"method {self.method.name} needs momentum above 0, along which it perturbs: set momentum, or choose "
            "another method",
        )
        self._check_epochs()
        given = self.given_class_weights
        require(
            given is None or (bool(given) and all(math.isfinite(weight) and weight > 0 for weight in given)),
            f"class_weights is {self.class_weights}: give none, balanced, or a number above 0 for each class: 1,2.5,1",
        )
        require(
            self.class_weights != "balanced" or self.data.sampler != "balanced",
            "class_weights and sampler are balanced, and would even the classes out twice: give one of them",
        )

    @property
    def passes(self) -> float:
        """How often the run goes forward and backward over the training images."""
        return round(self.epochs * self.method.passes, 9)  # 100 x 1.1 is a little more than 110

    @property
    def given_class_weights(self) -> tuple[float, ...] | None:
        """The numbers in `class_weights`; None for none and balanced, and no numbers where it is something else."""
        if self.class_weights in ("none", "balanced"):
            return None
        try:
            return tuple(map(float, self.class_weights.split(",")))
        except ValueError:
            return ()

    def _check_epochs(self) -> None:
        early, warmup, t_max = len(self.data.early_sizes or ()), self.schedule.warmup_epochs, self.schedule.t_max
        begins = self.schedule.schedule_begins
        require(
            early <= self.epochs,
            f"early_sizes has {counted(early, 'epoch')}: there are {self.epochs} in all: give fewer sizes, or none",
        )
        require(
            0 <= begins < self.epochs,
            f"schedule_begins is {begins}: give a number below that of the epochs, {self.epochs}",
        )
        left = self.epochs - begins
        there = f"{counted(left, 'epoch')} {'left' if begins else 'in all'}"
        require(warmup <= left, f"warmup_epochs is {warmup}: the run has {there}")
        first = min(self.schedule.milestones or (math.inf,))
        require(
            first >= warmup,
            f"milestones begin at {first}: the rate is warmed up until epoch {warmup:g}: give later ones",
        )
        require(t_max is None or warmup < t_max, f"warmup_epochs is {warmup}: it must be less than t_max, {t_max}")

    def to_json(self) -> dict[str, Any]:
        """Return the config as a dict that `json` can write."""
        return dump(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Config:
        """Return the config that `to_json` wrote. An unknown key, or a value of another type, is an `InputError`."""
        if isinstance(content, Mapping):
            content = with_present_names(content)
            require_names(content, cls, cls)
            for name, kind in SECTIONS.items():
                if isinstance(content.get(name), Mapping):
                    require_names(content[name], kind, cls, name)
        return parse(cls, content, "config")

    def flat(self) -> dict[str, Any]:
        """Return every setting by its name alone, the name of the method as `method`, as `override` takes them."""
        settings: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Settings):
                settings |= {"method": value.name} if item.name == "method" else {}  # type: ignore[attr-defined]
                settings |= vars(value)
            elif item.name != "recipe":
                settings[item.name] = value
        return settings

    def override(self, settings: Mapping[str, Any]) -> Config:
        """Return this config with some settings changed, each by its name alone, as on the command line.

            >>> Config().override({"method": "amp", "epsilon": 0.1, "learning_rate": 0.2}).method.epsilon
            0.1

        A new `method` has its default settings, and the recipe is RECIPE+METHOD then; a new `optimizer` has its default
        rate, momentum and decay; a new `schedule` (or `widths`) drops the settings that belong to the old one. A
        setting that the config does not have (such as `epsilon` for plain SGD) is an `InputError`.
        """
        remaining = with_named_model(settings)
        changed: dict[str, Any] = {}
        method = remaining.pop("method", self.method.name)
        if method not in METHODS:
            raise InputError(f"unknown method {method!r}: {choose(method, METHODS)}")
        if method != self.method.name:
            changed = {"recipe": f"{self.recipe.partition('+')[0]}+{method}", "method": METHODS[method]()}
        for item in fields(self):
            value = changed.get(item.name, getattr(self, item.name))
            if isinstance(value, Settings):
                changed[item.name] = _override_part(value, remaining)
            elif item.name in remaining:
                changed[item.name] = remaining.pop(item.name)
        if remaining:
            raise InputError(self._unknown_setting(next(iter(remaining)), method))
        return replace(self, **changed)

    def _unknown_setting(self, name: str, method: str) -> str:
        known = self.flat()
        owned = any(name in {item.name for item in fields(kind)} for kind in METHODS.values())
        what = f"method {method} has no setting {name!r}" if owned else f"there is no setting {name!r}"
        return f"{what}: {remedy(name, known)}"


def _override_part(part: Any, remaining: dict[str, Any]) -> Any:
    """Return a part of a config with its settings changed, which are taken out of `remaining`."""
    changed = {item.name: remaining.pop(item.name) for item in fields(part) if item.name in remaining}
    if isinstance(part, Start):
        changed = completed(changed, part)
    if isinstance(part, Optimizer) and changed.get("optimizer", part.optimizer) != part.optimizer:
        changed = dict.fromkeys(OF_OPTIMIZER) | changed
    for item, info in described(part):
        owner, choice = info.belongs_to or ("", "")
        if changed.get(owner, choice) != choice and getattr(part, owner) == choice:
            changed.setdefault(item.name, None)
    return replace(part, **changed) if changed else part


def _renamed(content: Mapping[str, Any]) -> dict[str, Any]:
    for name in content:
        if (now := RENAMED.get(name, name)) != name and now in content:
            raise InputError(f"{name!r} is called {now!r} now, and both are given: give {now!r} alone")
    return {RENAMED.get(name, name): value for name, value in content.items()}


def with_present_names(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a config with the settings of earlier versions as they are called and written now."""
    present = _renamed(content)
    if isinstance(weights := present.get("class_weights"), (list, tuple)):  # as YAML would have them
        present["class_weights"] = ",".join(map(str, weights))
    if isinstance(method := present.get("method"), Mapping):
        present["method"] = _renamed(method)
    data = present.get("data")
    if isinstance(data, Mapping) and isinstance(data.get("flip"), bool):
        present["data"] = {**data, "flip": "random" if data["flip"] else "none"}
    return present
