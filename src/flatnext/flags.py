"""Command-line flags from the settings of a config, so that every setting has one."""

from __future__ import annotations

import argparse
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, fields
from typing import Any, Literal

from flatnext.config import METHODS, MODELS, Config, Data, Model, Optimizer, Schedule, named_model

PARTS: dict[str, tuple[Any, ...]] = {
    "run": (Config,),
    "data": (Data,),
    "model": (Model,),
    "optimizer": (Optimizer,),
    "schedule": (Schedule,),
    "method": tuple(METHODS.values()),
}


def add_setting_flags(parser: argparse.ArgumentParser, *parts: str, without: Collection[str] = ()) -> None:
    """Add a flag for each setting of these parts of a config (default: all). Unset flags are absent when parsed."""
    for title in parts or PARTS:
        group = parser.add_argument_group(title)
        if title == "model":
            group.add_argument(
                "--model", choices=MODELS, default=argparse.SUPPRESS, help="named model; the flags below change parts"
            )
        if title == "method" and "method" not in without:
            group.add_argument("--method", choices=METHODS, default=argparse.SUPPRESS, help="gradient rule")
        seen = set(without)  # methods share settings
        for kind in PARTS[title]:
            hints = typing.get_type_hints(kind)
            for item in fields(kind):
                if item.metadata and item.name not in seen:
                    seen.add(item.name)
                    _add_flag(group, item, hints[item.name])


def setting_overrides(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that were given as flags, for `Config.override`."""
    given = {key.removeprefix("setting_"): value for key, value in namespace.items() if key.startswith("setting_")}
    if "model" in namespace:
        named = named_model(namespace["model"])
        shape = {item.name: getattr(named, item.name) for item in fields(named) if item.name != "parameter_budget"}
        given = shape | given
    if "method" in namespace:
        given["method"] = namespace["method"]
    return given


def _add_flag(group: argparse._ArgumentGroup, item: Field[Any], kind: Any) -> None:
    flag = "--" + (item.metadata["info"].flag or item.name).replace("_", "-")
    default = _default(item)
    options: dict[str, Any] = {
        "dest": f"setting_{item.name}",
        "default": argparse.SUPPRESS,
        "help": item.metadata["info"].help + default,
    }
    if kind is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
    elif typing.get_origin(kind) is Literal:
        group.add_argument(flag, choices=typing.get_args(kind), type=type(typing.get_args(kind)[0]), **options)
    else:
        group.add_argument(flag, type=_reader(kind), metavar=_metavar(kind), **options)


def _default(item: Field[Any]) -> str:
    """Return a note on the default; methods that share a setting may have different ones."""
    by_method = {m: f.default for m, c in METHODS.items() for f in fields(c) if f.name == item.name}
    if len(set(by_method.values())) > 1:
        return f" (default {', '.join(f'{method} {_show(value)}' for method, value in by_method.items())})"
    return "" if item.default is None else f" (default {_show(item.default)})"


def _optional(kind: Any) -> tuple[Any, bool]:
    """Return the type without None, and whether None was in it."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next(k for k in typing.get_args(kind) if k is not type(None)), True
    return kind, False


def _reader(kind: Any) -> Callable[[str], Any]:
    kind, optional = _optional(kind)
    item = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind

    def read(text: str) -> Any:
        if optional and text.lower() == "none":
            return None
        try:
            return tuple(item(part) for part in text.split(",")) if item is not kind else kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {_metavar(kind)}") from None

    return read


def _metavar(kind: Any) -> str:
    kind, _ = _optional(kind)
    if typing.get_origin(kind) is tuple:
        return "N,N,..."
    return {int: "N", float: "X"}.get(kind, "TEXT")


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
