"""Flags that several commands share: one for every setting of a config, and where the data and the device are."""

from __future__ import annotations

import argparse
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, Literal

from flatnext.config import METHODS, MODELS, Config, Data, Model, Optimizer, Schedule, named_model
from flatnext.config.setting import described, type_hints

GROUPS: dict[str, tuple[Any, ...]] = {
    "run": (Config,),
    "data": (Data,),
    "model": (Model,),
    "optimizer": (Optimizer,),
    "schedule": (Schedule,),
    "method": tuple(METHODS.values()),
}

ABOUT_DEFAULTS = (
    "Settings that you give replace those of the recipe; a default below applies where the recipe has no other value."
)


def add_setting_flags(
    parser: argparse.ArgumentParser, *groups: str, without: Collection[str] = (), of_run: bool = False
) -> None:
    """Add a flag for every setting of these groups (default: all). A flag that is not given is absent when parsed.

    With `of_run` the flags replace settings of a trained run, and the help names no defaults.
    """
    for title in groups or GROUPS:
        group = parser.add_argument_group(f"{title} (default: as in training)" if of_run else title)
        if title == "model":
            text = f"named model, of which the flags below change parts: {', '.join(MODELS)}"
            group.add_argument("--model", choices=MODELS, default=argparse.SUPPRESS, metavar="NAME", help=text)
        if title == "method" and "method" not in without:
            group.add_argument("--method", choices=METHODS, default=argparse.SUPPRESS, help="training method")
        seen = set(without)  # methods share settings
        for kind in GROUPS[title]:
            hints = type_hints(kind)
            for item, _ in described(kind):
                if item.name not in seen:
                    seen.add(item.name)
                    note = "" if of_run else _default_note(item)
                    _add_flag(group, f"setting_{item.name}", item, hints[item.name], note)


def add_flags_of(kind: Any, parser: argparse._ActionsContainer) -> None:
    """Add a flag for every setting of a dataclass that is no part of a config; lists are given with spaces between."""
    for item, _ in described(kind):
        _add_flag(parser, item.name, item, type_hints(kind)[item.name], _default_note(item, " "), spaces=True)


def given(kind: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a dataclass that were given as flags, by name."""
    return {item.name: getattr(options, item.name) for item in fields(kind) if item.name in options}


def setting_overrides(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that were given as flags, for `Config.override`."""
    given = {key.removeprefix("setting_"): value for key, value in options.items() if key.startswith("setting_")}
    if "model" in options:
        model = named_model(options["model"])
        given = {item.name: getattr(model, item.name) for item in fields(model)} | given
        if "setting_parameter_budget" not in options:
            del given["parameter_budget"]
    if "method" in options:
        given["method"] = options["method"]
    return given


def add_place_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the folder of the data, downloading, and the device."""
    group = parser.add_argument_group("data folder and device")
    group.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="data folder (default: the one that the run was trained with, or .data)",
    )
    group.add_argument(
        "--download", action=argparse.BooleanOptionalAction, default=True, help="download missing data (default yes)"
    )
    group.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 ... (default auto)")


def data_dir(options: argparse.Namespace, path: Path | None = None) -> Path:
    """Return the data folder: by the flag, or where the run at `path` (a run folder or its weights) had its data."""
    if options.data_dir is None and path is not None:
        from flatnext.runs.folder import RunFolder

        return RunFolder(path if path.is_dir() else path.parent).data_dir() or Path(".data")
    return options.data_dir or Path(".data")


def _add_flag(
    group: argparse._ActionsContainer, dest: str, item: Field[Any], kind: Any, note: str, *, spaces: bool = False
) -> None:
    info = item.metadata["info"]
    flag = "--" + (info.flag or item.name).replace("_", "-")
    options: dict[str, Any] = {"dest": dest, "default": argparse.SUPPRESS, "help": info.help + note}
    if kind is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
    elif typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        group.add_argument(flag, type=type(choices[0]), choices=choices, **options)
    elif spaces and typing.get_origin(kind) is tuple:
        group.add_argument(flag, nargs="*", type=typing.get_args(kind)[0], metavar="X", **options)
    else:
        group.add_argument(flag, type=_reader(kind), metavar=_metavar(kind), **options)


def _default_note(item: Field[Any], between: str = ",") -> str:
    """Return a note on the default; methods that share a setting may have different ones."""
    defaults = {m: f.default for m, kind in METHODS.items() for f in fields(kind) if f.name == item.name}
    if len(set(defaults.values())) > 1:
        return f" (default: {', '.join(f'{method} {_show(value)}' for method, value in defaults.items())})"
    return "" if item.default is None else f" (default {_show(item.default, between)})"


def _reader(kind: Any) -> Callable[[str], Any]:
    """Return the function that reads a number, or several with commas between; "none" where the type allows None."""
    kind, optional = _without_none(kind)
    is_list = typing.get_origin(kind) is tuple
    number = typing.get_args(kind)[0] if is_list else kind

    def read(text: str) -> Any:
        if optional and text.lower() == "none":
            return None
        try:
            return tuple(map(number, text.split(","))) if is_list else number(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {_metavar(kind)}") from None

    return read


def _metavar(kind: Any) -> str:
    kind, _ = _without_none(kind)
    return "N,N,..." if typing.get_origin(kind) is tuple else {int: "N", float: "X"}.get(kind, "TEXT")


def _without_none(kind: Any) -> tuple[Any, bool]:
    """Return a type without None, and whether None was in it."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next(k for k in typing.get_args(kind) if k is not type(None)), True
    return kind, False


def _show(value: Any, between: str = ",") -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return between.join(map(_show, value)) if isinstance(value, tuple) else str(value)
