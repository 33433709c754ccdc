"""A setting: a field of a dataclass with a line of help, checked when it is made, that goes to JSON and back."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import field, fields, is_dataclass
from typing import Any, Literal

from flatnext.errors import InputError


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
        for name, kind in typing.get_type_hints(type(self)).items():
            value = self.__dict__.get(name)
            if name in self.__dict__ and not is_dataclass(value):
                object.__setattr__(self, name, parse(kind, value, name))


def require_finite(settings: object, *names: str) -> None:
    """Raise `InputError` for a setting that is infinite, not a number, or negative."""
    for name in names:
        value = getattr(settings, name)
        require(math.isfinite(value) and value >= 0, f"{name} is {value}: it must be finite and not negative")


def parse(kind: Any, value: Any, name: str) -> Any:
    """Return `value`, as `json` read it, as the annotated type `kind`; an `InputError` names a setting that is not."""
    origin, choices = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        return _parse_dataclass(kind, _mapping(value, name), name)
    if choices and all(is_dataclass(choice) for choice in choices):
        return _parse_tagged(choices, dict(_mapping(value, name)), name)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else parse(next(c for c in choices if c is not type(None)), value, name)
    if origin is Literal:
        if value not in choices:
            raise InputError(f"{name} is {value!r}: choose one of {', '.join(map(str, choices))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{name} is {value!r}: give a list")
        return tuple(parse(choices[0], item, name) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return float(value)
    if type(value) is not kind:
        raise InputError(f"{name} is {value!r}: give a value of type {kind.__name__}")
    return value


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{name} is {value!r}: give an object with settings by name")
    return value


def _parse_tagged(kinds: tuple[Any, ...], content: dict[str, Any], name: str) -> Any:
    """Return one of several dataclasses, chosen by its `name`, which is an entry of the content."""
    by_name = {kind.name: kind for kind in kinds}
    tag = content.pop("name", None)
    if not isinstance(tag, str) or tag not in by_name:
        raise InputError(f"{name}: unknown name {tag!r}: choose one of {', '.join(by_name)}")
    return _parse_dataclass(by_name[tag], content, name)


def _parse_dataclass(kind: Any, content: Mapping[str, Any], name: str) -> Any:
    known = typing.get_type_hints(kind)
    names = [f.name for f in fields(kind)]
    for key in content:
        if key not in names:
            raise InputError(f"{name} has no setting {key!r}: choose among {', '.join(names) or 'none'}")
    return kind(**{key: parse(known[key], value, f"{name}.{key}") for key, value in content.items()})
