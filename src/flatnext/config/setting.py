"""A setting: a field of a dataclass with a line of help, checked when it is made, that goes to JSON and back."""

from __future__ import annotations

import math
import typing
from dataclasses import field, fields
from typing import Any

from flatnext.errors import InputError
from flatnext.schema import parse


def setting(default: Any, help: str, *, flag: str | None = None) -> Any:
    """Return a dataclass field with a default, a line for `--help`, and the command-line flag (by default its name)."""
    return field(default=default, metadata={"help": help, "flag": flag})


def require(condition: bool, message: str) -> None:
    """Raise `InputError` with this message unless the condition holds."""
    if not condition:
        raise InputError(message)


class Settings:
    """Base of the dataclasses: a value of another type than its field's is an error, an int for a float is one."""

    def __post_init__(self) -> None:
        """Check the type of each field; a list becomes a tuple and an int a float where that is the field's type."""
        hints = typing.get_type_hints(type(self))
        for item in fields(self):  # type: ignore[arg-type]  # the classes that inherit are dataclasses
            object.__setattr__(self, item.name, parse(hints[item.name], getattr(self, item.name), item.name))


def require_finite(settings: object, *names: str) -> None:
    """Raise `InputError` for a setting that is infinite, not a number, or negative."""
    for name in names:
        value = getattr(settings, name)
        require(math.isfinite(value) and value >= 0, f"{name} is {value}: it must be finite and not negative")
