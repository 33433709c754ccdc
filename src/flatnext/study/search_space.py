"""The space of a search: which settings it varies, and over which values."""

from __future__ import annotations

import itertools
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from flatnext.config import Config, flag_of, remedy
from flatnext.config.setting import SettingInfo, Settings, described, require, show, type_hints
from flatnext.errors import InputError, choose
from flatnext.versions import import_extra

FIXED = ("calibration", "dataset", "evaluate_every", "seed", "split_seed", "test_curve", "validation", "weights_sha256")
"""Settings that say what is measured and on which images: trials that differ in them cannot be compared."""

MOST_CHECKED = 1000
"""Corners of the space whose configs are made before the search begins."""

FORMS = "give LOW..HIGH, log:LOW..HIGH, int:LOW..HIGH, or values with commas between"


@dataclass(frozen=True, kw_only=True)
class Varied:
    """A setting that a search varies: over `choices`, or from `low` to `high`, both included.

    `scale`: how a number is drawn: evenly, or evenly in its logarithm. `whole`: only whole numbers, `step` apart.
    """

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    scale: Literal["linear", "log"] = "linear"
    whole: bool = False
    step: int = 1

    @property
    def ends(self) -> tuple[Any, ...]:
        """The choices, or the lowest and the highest value."""
        return self.choices or (self.low, self.high)

    def distribution(self) -> Any:
        """Return the values as a distribution of Optuna."""
        distributions = import_extra("optuna", "tune").distributions
        if self.choices:
            return distributions.CategoricalDistribution(self.choices)
        if self.whole:
            return distributions.IntDistribution(self.low, self.high, log=self.scale == "log", step=self.step)
        return distributions.FloatDistribution(self.low, self.high, log=self.scale == "log")


@dataclass(frozen=True)
class Space:
    """A config and what a search varies of it. Raises `InputError` where the ends of the ranges make no config."""

    config: Config
    varied: tuple[Varied, ...]

    def __post_init__(self) -> None:
        """Make the configs at the corners, so that what cannot run is said before anything does."""
        require(bool(self.varied), "a search varies something: give --vary NAME=LOW..HIGH")
        names = [item.name for item in self.varied]
        for name in names:
            require(names.count(name) == 1, f"--vary {name} is given twice: give it once")
        corners = itertools.product(*(item.ends for item in self.varied))
        for corner in itertools.islice(corners, MOST_CHECKED):
            settings = dict(zip(names, corner, strict=True))
            try:
                self.at(settings)
            except InputError as error:
                where = ", ".join(f"{name} {show(value)}" for name, value in settings.items())
                raise InputError(f"--vary reaches {where}: {error}") from error

    def at(self, settings: Mapping[str, Any]) -> Config:
        """Return the config with these values of the varied settings; `InputError` where they exclude each other."""
        return self.config.override(settings)

    @property
    def most_epochs(self) -> int:
        """The epochs of a run, or where they are varied the most of them."""
        return max(next((item.ends for item in self.varied if item.name == "epochs"), (self.config.epochs,)))


def parse_space(config: Config, texts: Sequence[str]) -> Space:
    """Return the space that `NAME=VALUES` texts describe, around a config.

    A setting is named as its flag (`lr`, `weight-decay`) or as in a config file, with or without its section
    (`learning_rate`, `optimizer.learning_rate`). Its values are
    `LOW..HIGH`, `log:LOW..HIGH`, `int:LOW..HIGH`, or a list `A,B,C`, whose type is the setting's. Raises `InputError`.
    """
    return Space(config, tuple(parse_varied(config, text) for text in texts))


def parse_varied(config: Config, text: str) -> Varied:
    """Return what one `NAME=VALUES` describes. Raises `InputError`."""
    typed, equals, values = (part.strip() for part in text.partition("="))
    require(bool(equals and values), f"--vary {text}: write NAME=VALUES; {FORMS}")
    known = settings_of(config)
    name = _setting_name(config, known, typed)
    kind, info = known[name]
    form, _, rest = values.rpartition(":")
    if ".." in values:
        return _range(name, kind, info, form, rest)
    require(not form, f"--vary {text}: {form}: needs a range, such as {form}:1..10")
    choices = tuple(_value(name, kind, item.strip()) for item in values.split(","))
    require(len(choices) > 1, f"--vary {text} is a single value: give it as a flag instead, or {FORMS[5:]}")
    for choice in choices:
        require(choices.count(choice) == 1, f"--vary {text} has {show(choice)} twice: give it once")
    return Varied(name=name, choices=choices)


def settings_of(config: Config) -> dict[str, tuple[Any, SettingInfo | None]]:
    """Return the type of each setting of a config, and what is known of it, by name."""
    parts: list[Any] = [
        config,
        *(value for item in fields(config) if isinstance(value := getattr(config, item.name), Settings)),
    ]
    found: dict[str, tuple[Any, SettingInfo | None]] = {
        item.name: (type_hints(part.__class__)[item.name], info) for part in parts for item, info in described(part)
    }
    return found | {"method": (str, None)}


def _setting_name(config: Config, known: Mapping[str, tuple[Any, SettingInfo | None]], typed: str) -> str:
    section, _, word = typed.rpartition(".")
    names = {flag_of(name).removeprefix("--"): name for name in known}
    name = word if word in known else names.get(word.replace("_", "-").lstrip("-"))
    if name is None or not _is_in(config, section, name):
        raise InputError(f"--vary {typed}: {config.recipe} has no such setting: {remedy(typed, [*known, *names])}")
    require(name not in FIXED, f"--vary {name}: trials that differ in it cannot be compared: give it as a flag")
    list_of = next((kind for kind in _kinds(known[name][0]) if typing.get_origin(kind) is tuple), None)
    require(list_of is None, f"--vary {name}: it is a list of numbers, which cannot be varied: give it as a flag")
    return name


def _is_in(config: Config, section: str, name: str) -> bool:
    """Return whether a setting stands in a section of the config, "" for any."""
    part = getattr(config, section, None) if section else config
    return not section or (isinstance(part, Settings) and hasattr(part, name))


def _range(name: str, kind: Any, info: SettingInfo | None, form: str, text: str) -> Varied:
    at = f"--vary {name}={f'{form}:' if form else ''}{text}"
    require(form in ("", "log", "int"), f"{at}: unknown {form!r}: {FORMS}")
    kinds = _kinds(kind)
    require(int in kinds or float in kinds, f"{at}: it is no number: give values with commas between")
    whole = form == "int" or float not in kinds
    ends = [_end(at, end, whole) for end in text.split("..")]
    require(len(ends) == 2, f"{at}: {FORMS}")
    low, high = ends
    require(low < high, f"{at}: the first number must be below the second")
    require(form != "log" or low > 0, f"{at}: a logarithmic range begins above 0")
    step = (info.range.multiple_of if info and info.range else None) or 1
    require(step == 1 or form != "log", f"{at}: it is a multiple of {step}: give values with commas between")
    require((high - low) % step == 0 or step == 1, f"{at}: give two multiples of {step}")
    return Varied(name=name, low=low, high=high, scale="log" if form == "log" else "linear", whole=whole, step=step)


def _end(at: str, text: str, whole: bool) -> float:
    try:
        value: float = int(text) if whole else float(text)
    except ValueError:
        raise InputError(f"{at}: {text!r} is no {'whole ' if whole else ''}number: {FORMS}") from None
    require(math.isfinite(value), f"{at}: {text} is not finite: {FORMS}")
    return value


def _value(name: str, kind: Any, text: str) -> Any:
    """Return a value of a list as the type of its setting."""
    kinds = _kinds(kind)
    if types.NoneType in kinds and text.lower() == "none":
        return None
    if bool in kinds:
        require(text in ("yes", "no"), f"--vary {name}: {text!r} is neither yes nor no")
        return text == "yes"
    for number in (int, float):
        if number in kinds:
            try:
                return number(text)
            except ValueError:
                continue
    literals = [choice for each in kinds if typing.get_origin(each) is Literal for choice in typing.get_args(each)]
    for choice in literals:
        if str(choice) == text:
            return choice
    require(not literals, f"--vary {name}: {text!r} is unknown: {choose(text, map(str, literals))}")
    require(str in kinds, f"--vary {name}: {text!r} is no {'number' if float in kinds else 'whole number'}")
    return text


def _kinds(kind: Any) -> tuple[Any, ...]:
    """Return the types that a type allows."""
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
