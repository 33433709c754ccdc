"""A setting: a field of a dataclass with its help text and its range, checked when the dataclass is made."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields
from functools import cache
from typing import Any

from flatnext.errors import InputError
from flatnext.schema import parse


@dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers that a setting may be; of a list, each of its numbers, of which there must be one."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    multiple_of: int | None = None

    def __contains__(self, value: Any) -> bool:
        if isinstance(value, tuple):
            return bool(value) and all(item in self for item in value)
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
            and (self.multiple_of is None or value % self.multiple_of == 0)
        )

    def __str__(self) -> str:
        """Return what to give: `at least 1`, `a number from 0 to below 1`, `a multiple of 4, at least 4`."""
        if self.multiple_of is not None:
            return f"a multiple of {self.multiple_of}, at least {self.at_least}"
        if self.above is not None:
            return f"a number above {self.above}" + (f", up to {self.at_most}" if self.at_most is not None else "")
        if self.below is not None:
            return f"a number from {self.at_least} to below {self.below}"
        if self.at_most is not None:
            return f"a number from {self.at_least} to {self.at_most}"
        return f"at least {self.at_least}"


@dataclass(frozen=True, kw_only=True)
class SettingInfo:
    """What is known of a setting beside its type and default; `described` gives it.

    Args:
        help: a line for `--help`.
        flag: the command-line flag without its dashes; by default the name.
        range: the numbers that it may be.
        belongs_to: another setting and its value, without which this one must be None.
        needed: whether it must be given with that value.
    """

    help: str
    flag: str | None = None
    range: Range | None = None
    belongs_to: tuple[str, str] | None = None
    needed: bool = False


def setting(
    default: Any,
    help: str,
    *,
    flag: str | None = None,
    belongs_to: tuple[str, str] | None = None,
    needed: bool = False,
    **limits: float,
) -> Any:
    """Return a dataclass field with a default and a `SettingInfo`; `limits` are the arguments of its `Range`."""
    limit = Range(**limits) if limits else None  # type: ignore[arg-type]
    info = SettingInfo(help=help, flag=flag, range=limit, belongs_to=belongs_to, needed=needed)
    return field(default=default, metadata={"info": info})


def described(settings: Any) -> Iterator[tuple[Field[Any], SettingInfo]]:
    """Yield the fields of a dataclass (or of its class) that are settings, with what is known of each."""
    for item in fields(settings):
        if "info" in item.metadata:
            yield item, item.metadata["info"]


@cache  # slow, and needed for every value
def type_hints(kind: Any) -> dict[str, Any]:
    """Return the types of the fields of a dataclass by name."""
    return typing.get_type_hints(kind)


def show(value: Any, between: str = ",", *, exact: bool = False) -> str:
    """Return a value as it is typed after a flag: `0.05`, `yes`, `16,24`, `none`; `exact`: with all its digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        short = f"{value:.4g}"
        return repr(value) if exact and float(short) != value else short
    if isinstance(value, (tuple, list)):
        return between.join(show(item, between, exact=exact) for item in value)
    return "none" if value is None else str(value)


def require(condition: bool, message: str) -> None:
    """Raise `InputError` with this message unless the condition holds."""
    if not condition:
        raise InputError(message)


class Settings:
    """Base of dataclasses of settings: each value is checked when the dataclass is made. Errors are `InputError`."""

    def __post_init__(self) -> None:
        """Check the type, the range and the owner of each setting; a list becomes a tuple, a whole number a float."""
        kind: Any = type(self)
        hints = type_hints(kind)
        for item in fields(self):  # type: ignore[arg-type]  # the classes that inherit are dataclasses
            object.__setattr__(self, item.name, parse(hints[item.name], getattr(self, item.name), item.name))
        for item, info in described(self):
            if info.range is not None:
                self._check_range(item, info.range)
            if info.belongs_to is not None:
                self._check_owner(item.name, info.belongs_to, info.needed)

    def _check_range(self, item: Field[Any], range: Range) -> None:
        value = getattr(self, item.name)
        several = "one or more numbers, each " if isinstance(value, tuple) else ""
        otherwise = ", or leave it out" if item.default is None else ""
        require(value is None or value in range, f"{item.name} is {value}: give {several}{range}{otherwise}")

    def _check_owner(self, name: str, belongs_to: tuple[str, str], needed: bool) -> None:
        owner, choice = belongs_to
        actual, given = getattr(self, owner), getattr(self, name) is not None
        require(actual == choice or not given, f"{name} belongs to {owner}={choice}, not to {actual}: leave it out")
        require(actual != choice or given or not needed, f"{owner}={choice} needs {name}")
