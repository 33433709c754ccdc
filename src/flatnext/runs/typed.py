"""From JSON to dataclasses by their annotations, strictly: what does not fit is a `MismatchError` that says where."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")

LARGEST = 2**53
"""No integer in a run's files is larger."""

SHOWN = 60
"""Characters of a wrong value that a message shows."""


class MismatchError(ValueError):
    """A value is not what the dataclass says; the message is one line, with the place."""


def record(kind: type[T], content: Any, at: str = "", **made: Any) -> T:
    """Return the dataclass `kind` from the fields in `made` and, type by type, those in `content`.

    A field that has a default may be missing; keys that `kind` does not know are passed over. `at` is the place that
    a `MismatchError` names. What the dataclass itself refuses by a `ValueError` is one too.
    """
    if not isinstance(content, Mapping):
        raise MismatchError(f"{at or 'the content'} is not an object")
    values = dict(made)
    for name, hint in _hints(kind).items():  # type: ignore[arg-type]  # mypy holds type[T] for unhashable
        if name in made:
            continue
        place = f"{at}.{name}" if at else name
        if name in content:
            values[name] = value(hint, content[name], place)
        elif name not in _optional(kind):  # type: ignore[arg-type]
            raise MismatchError(f"{place} is missing")
    try:
        return kind(**values)
    except ValueError as error:
        raise MismatchError(f"{at}: {error}" if at else str(error)) from None


def value(hint: Any, item: Any, at: str) -> Any:
    """Return `item` as the annotation `hint` has it: a scalar, dataclass, tuple, dict, or one of these or None."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return item
    if origin in (types.UnionType, typing.Union):
        if item is None and types.NoneType in arguments:
            return None
        (hint,) = (kind for kind in arguments if kind is not types.NoneType)
        return value(hint, item, at)
    if origin is tuple:
        if not isinstance(item, list):
            raise MismatchError(f"{at} is not a list")
        return tuple(value(arguments[0], each, f"{at}[{number}]") for number, each in enumerate(item))
    if origin is dict:
        if not isinstance(item, Mapping):
            raise MismatchError(f"{at} is not an object")
        return {name: value(arguments[1], each, f"{at}.{name}") for name, each in item.items()}
    return record(hint, item, at) if isinstance(hint, type) and is_dataclass(hint) else _scalar(hint, item, at)


def _scalar(kind: Any, item: Any, at: str) -> Any:
    if type(item) is not kind and not (kind is float and type(item) is int):
        shown = repr(item)
        raise MismatchError(f"{at} is {shown if len(shown) <= SHOWN else shown[:SHOWN] + '...'}")
    if abs(item) > LARGEST if type(item) is int else type(item) is float and not math.isfinite(item):
        raise MismatchError(f"{at} is no number that can be")
    return float(item) if kind is float else item


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


@cache
def _optional(kind: Any) -> frozenset[str]:
    """Return the fields that have a default."""
    return frozenset(f.name for f in fields(kind) if f.default is not MISSING or f.default_factory is not MISSING)
