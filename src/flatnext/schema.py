"""Strict conversion between JSON and dataclasses, by the annotations of their fields.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Point:
    ...     x: float
    ...     tags: tuple[str, ...] = ()
    >>> parse(Point, {"x": 1, "tags": ["a"]})
    Point(x=1.0, tags=('a',))
    >>> dump(Point(x=float("nan")))
    {'x': None, 'tags': []}

Annotations may be `str`, `bool`, `int`, `float`, `Any`, `Literal`, tuples, dicts with string keys, dataclasses (generic
ones too), `X | None`, unions of dataclasses, which are told apart by their class attribute `name`, and classes with a
form of their own: `to_plain()` gives it, and the class method `from_plain(content)` reads it or raises `ValueError`.
"""

from __future__ import annotations

import math
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar

from flatnext.errors import InputError, choose

Unknown = Literal["error", "ignore"]

LARGEST_INTEGER = 2**53
"""Integers beyond it are refused: not every reader of JSON keeps them exactly."""

SHOWN = 60
"""Characters of a wrong value that a message shows."""

DEEP = 3
"""Lists in lists and the like that it shows."""


class ParseError(InputError):
    """The content does not have the type that is asked for. The message is one line that names the place."""


def parse(kind: Any, content: Any, at: str = "", *, unknown: Unknown = "error") -> Any:
    """Return `content`, as `json` reads it, as the annotated type `kind`.

    Args:
        kind: a dataclass or another annotation that this module supports.
        content: the value. A whole number is accepted as a float; no other type is converted.
        at: the name of the value, with which the message of an error begins.
        unknown: what to do with keys that are no field of a dataclass: refuse or ignore them.

    Raises:
        ParseError: a value has the wrong type or is missing, a number is not finite or too large for JSON, a key is
            unknown, or a dataclass has refused its values by a `ValueError`.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return content
    if is_dataclass(origin or kind):
        return _dataclass(kind, content, at, unknown)
    if hasattr(kind, "from_plain"):
        return _own_form(kind, content, at)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments, content, at, unknown)
    if origin is Literal:
        if not any(content == choice and type(content) is type(choice) for choice in arguments):
            raise _error(content, at, f"choose one of {', '.join(map(str, arguments))}")
        return content
    if origin is tuple:
        return _tuple(arguments, content, at, unknown)
    if origin is dict:
        items = _mapping(content, at).items()
        return {key: parse(arguments[1], value, _inside(at, key), unknown=unknown) for key, value in items}
    return _scalar(kind, content, at)


def dump(value: Any) -> Any:
    """Return a value as `json` can write it, so that `parse` reads it back; a float that is not finite becomes None."""
    if is_dataclass(value) and not isinstance(value, type):
        tag = {"name": type(value).name} if _is_tagged(type(value)) else {}  # type: ignore[attr-defined]
        return tag | {field.name: dump(getattr(value, field.name)) for field in fields(value)}
    if hasattr(value, "to_plain"):
        return value.to_plain()
    if isinstance(value, Mapping):
        return {key: dump(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [dump(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _dataclass(kind: Any, content: Any, at: str, unknown: Unknown) -> Any:
    if isinstance(content, typing.get_origin(kind) or kind):
        return content
    hints, required = _fields(kind)
    content = _mapping(content, at)
    if unknown == "error":
        for key in content:
            if key not in hints:
                place = at or "the content"
                raise ParseError(f"{place} has no setting {key!r}: {choose(key, hints)}")
    for name in required:
        if name not in content:
            raise ParseError(f"{_inside(at, name)} is missing")
    values = {
        name: parse(hint, content[name], _inside(at, name), unknown=unknown)
        for name, hint in hints.items()
        if name in content
    }
    try:
        return kind(**values)
    except ValueError as error:
        raise ParseError(f"{at}: {error}" if at else str(error)) from error


def _own_form(kind: Any, content: Any, at: str) -> Any:
    if isinstance(content, kind):
        return content
    try:
        return kind.from_plain(content)
    except ValueError as error:
        raise ParseError(f"{at}: {error}" if at else str(error)) from error


def _union(kinds: tuple[Any, ...], content: Any, at: str, unknown: Unknown) -> Any:
    if content is None and types.NoneType in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not types.NoneType)
    if len(kinds) == 1:
        return parse(kinds[0], content, at, unknown=unknown)
    if isinstance(content, kinds):
        return content
    by_name = {kind.name: kind for kind in kinds}
    content = dict(_mapping(content, at))
    tag = content.pop("name", None)
    if not isinstance(tag, str) or tag not in by_name:
        raise ParseError(f"{at}: unknown name {shown(tag)}: {choose(tag if isinstance(tag, str) else '', by_name)}")
    return _dataclass(by_name[tag], content, at, unknown)


def _tuple(kinds: tuple[Any, ...], content: Any, at: str, unknown: Unknown) -> tuple[Any, ...]:
    if not isinstance(content, (list, tuple)):
        raise _error(content, at, "give a list")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(content)
    if len(kinds) != len(content):
        raise _error(content, at, f"give a list of {len(kinds)}")
    items = zip(kinds, content, strict=True)
    return tuple(parse(kind, item, f"{at}[{index}]", unknown=unknown) for index, (kind, item) in enumerate(items))


def _scalar(kind: Any, content: Any, at: str) -> Any:
    if type(content) is not kind and not (kind is float and type(content) is int):
        raise _error(content, at, f"give a value of type {kind.__name__}")
    if type(content) is int and abs(content) > LARGEST_INTEGER:
        raise _error(content, at, "give a number of at most 2**53")
    if type(content) is float and not math.isfinite(content):
        raise _error(content, at, "give a finite number")
    return float(content) if kind is float else content


def _mapping(content: Any, at: str) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        raise _error(content, at, "give an object with values by name")
    return content


def _error(content: Any, at: str, remedy: str) -> ParseError:
    return ParseError(f"{at or 'the content'} is {shown(content)}: {remedy}")


def shown(content: Any) -> str:
    """Return how a value begins, with no work for the rest: a few aliases of YAML stand for millions of values."""
    short = reprlib.Repr()
    short.maxlevel, short.maxlist, short.maxdict = DEEP, SHOWN // 3, SHOWN // 3
    short.maxstring = short.maxlong = short.maxother = 4 * SHOWN
    text = short.repr(content)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _inside(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _is_tagged(kind: type) -> bool:
    """Return whether a dataclass carries a name that tells it apart in a union: a class attribute, not a field."""
    return isinstance(getattr(kind, "name", None), str) and "name" not in _fields(kind)[0]


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the annotation of each field of a dataclass, type parameters replaced, and the fields without default."""
    plain = typing.get_origin(kind) or kind
    parameters: dict[Any, Any] = dict(zip(getattr(plain, "__parameters__", ()), typing.get_args(kind), strict=False))
    hints = typing.get_type_hints(plain)
    by_name = {field.name: hints[field.name] for field in fields(plain)}
    replaced = {n: parameters.get(h, h) if isinstance(h, TypeVar) else h for n, h in by_name.items()}
    required = tuple(f.name for f in fields(plain) if f.default is MISSING and f.default_factory is MISSING)
    return replaced, required
