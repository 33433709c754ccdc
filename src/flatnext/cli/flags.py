"""Flags that several commands share: one for every setting of a config, and where the data and the device are."""

from __future__ import annotations

import argparse
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, Literal

from flatnext.config import (
    METHODS,
    MODELS,
    Config,
    Data,
    Model,
    Optimizer,
    Schedule,
    Start,
    model_name,
    named_model,
    with_named_model,
)
from flatnext.config.setting import described, show, type_hints
from flatnext.errors import InputError

GROUPS: dict[str, tuple[Any, ...]] = {
    "run": (Config,),
    "data": (Data,),
    "model": (Model,),
    "starting weights": (Start,),
    "optimizer": (Optimizer,),
    "schedule": (Schedule,),
    "method": tuple(METHODS.values()),
}

DATA_DIR = Path(".data")
"""Where data sets lie that nobody has put elsewhere."""

DATASET = Config().data.dataset
"""What --data-dir may hold without being named."""

DEFAULTS = {"default": Config()}
"""The defaults that a help shows where no recipe plays a part."""


def path(text: str) -> Path:
    """Return a path that was typed; `~` at its start is the home folder, also where no shell has seen to it."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text!r} names the home folder of nobody: give another path") from None


def known(check: Callable[[str], object]) -> Callable[[str], str]:
    """Return a function that reads a name, which is wrong where `check` raises `InputError`."""

    def read(name: str) -> str:
        try:
            check(name)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return name

    return read


def peek(typed: Sequence[str], **flags: str | None) -> argparse.Namespace:
    """Return what was typed after some flags, by their names and with their `nargs`, whatever else was typed."""
    scanner = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name, nargs in flags.items():
        scanner.add_argument(f"--{name}", nargs=nargs, action="extend" if nargs else "store")
    try:
        return scanner.parse_known_args(typed)[0]
    except (argparse.ArgumentError, SystemExit):  # the parser of the command will say what is wrong
        return argparse.Namespace(**dict.fromkeys(flags))


def add_setting_flags(
    parser: argparse.ArgumentParser,
    *groups: str,
    without: Collection[str] = (),
    defaults: Mapping[str, Config] | None = DEFAULTS,
    methods: Mapping[str, Any] = types.MappingProxyType({}),
) -> None:
    """Add a flag for every setting of these groups (default: all). A flag that is not given is absent when parsed.

    The help shows the values that the settings have in `defaults`, by what these are called; of a setting that none of
    them has, those of `methods`. With None the flags replace settings of a trained run, and the help shows no values.
    """
    values = {label: config.flat() | {"model": model_name(config.model)} for label, config in (defaults or {}).items()}
    others = {label: vars(method) for label, method in methods.items()}

    def note(name: str) -> str:
        return (_note(name, values) or _note(name, others)).replace("%", "%%")  # argparse fills in what follows one

    for title in groups or GROUPS:
        group = parser.add_argument_group(title if defaults is not None else f"{title} (default: as in training)")
        if title == "model":
            text = f"named model, of which the flags below change parts: {', '.join(MODELS)}{note('model')}"
            group.add_argument("--model", type=known(named_model), default=argparse.SUPPRESS, metavar="NAME", help=text)
        if title == "method" and "method" not in without:
            text = f"training method{note('method')}"
            group.add_argument("--method", choices=METHODS, default=argparse.SUPPRESS, help=text)
        seen = set(without)  # methods share settings
        for kind in GROUPS[title]:
            hints = type_hints(kind)
            for item, _ in described(kind):
                if item.name not in seen:
                    seen.add(item.name)
                    _add_flag(group, f"setting_{item.name}", item, hints[item.name], note(item.name))


def add_track_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag that says where the metrics of runs go."""
    parser.add_argument(
        "--track",
        nargs="+",
        action="extend",
        choices=("tensorboard", "wandb", "mlflow", "none"),
        help="where the metrics go besides metrics.jsonl, all that are wanted: tensorboard: event files in the run "
        "folder; wandb: Weights & Biases, offline unless WANDB_MODE says otherwise; mlflow: mlflow.db beside the runs, "
        "or MLFLOW_TRACKING_URI; none (default tensorboard)",
    )


def number_or_auto(text: str) -> int | Literal["auto"]:
    """Return the number that a flag was given, or `auto`."""
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor a number from 1")
    return int(text)


def trackers(options: argparse.Namespace) -> list[str]:
    """Return the trackers that were asked for, each once."""
    return [name for name in dict.fromkeys(options.track or ["tensorboard"]) if name != "none"]


def add_flags_of(kind: Any, parser: argparse._ActionsContainer) -> None:
    """Add a flag for every setting of a dataclass that is no part of a config; lists are given with spaces between."""
    for item, _ in described(kind):
        note = "" if item.default is None else f" (default: {show(item.default, ' ')})"
        _add_flag(parser, item.name, item, type_hints(kind)[item.name], note, spaces=True)


def given(kind: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a dataclass that were given as flags, by name."""
    return {item.name: getattr(options, item.name) for item in fields(kind) if item.name in options}


def setting_overrides(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that were given as flags, for `Config.override`."""
    given = {key.removeprefix("setting_"): value for key, value in options.items() if key.startswith("setting_")}
    given |= {name: options[name] for name in ("model", "method") if name in options}
    return with_named_model(given)


def data_overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Return `setting_overrides`, and dataset=folder where none was named and --data-dir is a folder of pictures.

    `InputError`: no data set was named, and --data-dir holds none. It may be mistyped, so nothing is downloaded to it.
    """
    overrides = setting_overrides(vars(options))
    folder = options.data_dir
    if folder is None or "dataset" in overrides or (folder == DATA_DIR and not folder.exists()):
        return overrides
    from flatnext.pictures import holds_pictures

    if holds_pictures(folder):
        return {**overrides, "dataset": "folder"}
    from flatnext.data.place import dataset_in  # the room imports torch

    dataset = dataset_in(folder)
    if dataset != DATASET:
        raise InputError(f"{folder} holds {dataset}: say so with --dataset {dataset}")
    return overrides


def require_data_dir_used(folder: Path | None, overrides: Mapping[str, Any], configs: Iterable[Config]) -> None:
    """Raise `InputError` where --data-dir is given without a data set, and that of a recipe lies in no folder."""
    if folder is None or "dataset" in overrides or not folder.exists():
        return
    for config in configs:
        if config.data.dataset == "digits":
            raise InputError(
                f"{config.recipe} is for digits, which lie in no folder: leave --data-dir out, or give the --dataset "
                "that it holds"
            )


def require_no_pictures(folder: Path | None, dataset: str, source: Path) -> None:
    """Raise `InputError` where --data-dir is a folder of pictures alone, and `source` is for another data set."""
    if folder is None or dataset == "folder":
        return
    from flatnext.data.cifar import LAYOUTS, lies_in  # the room imports torch
    from flatnext.pictures import holds_pictures

    if holds_pictures(folder) and not (dataset in LAYOUTS and lies_in(dataset, folder)):
        raise InputError(
            f"{folder} holds pictures, and {source} is for {dataset}: give --dataset folder as well, or --dataset "
            f"{dataset}"
        )


def add_place_flags(parser: argparse.ArgumentParser, *, of_run: bool = True) -> None:
    """Add the flags for the folder of the data, which may be that `of_run`, downloading, and the device."""
    group = parser.add_argument_group("data folder and device")
    group.add_argument(
        "--data-dir",
        type=path,
        metavar="DIR",
        help=f"data folder (default: {'the one that the run was trained with, or ' * of_run}.data)",
    )
    group.add_argument(
        "--download", action=argparse.BooleanOptionalAction, default=True, help="download missing data (default yes)"
    )
    group.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 ... (default auto)")


def data_dir(options: argparse.Namespace, run: Path | None = None) -> Path:
    """Return the data folder: by the flag, or where `run` (a run folder, or a file in one) had the same data set.

    `InputError`: the folder of the flag does not exist, and no data set was named to be downloaded to it.
    """
    known = None
    named = getattr(options, "setting_dataset", None) or getattr(options, "dataset", None)
    if options.data_dir is not None and named is None and options.data_dir != DATA_DIR:
        _require_folder(options.data_dir)
    if options.data_dir is None and run is not None:
        from flatnext.runs.folder import known_data_dir

        known = known_data_dir(run, named)
    return options.data_dir or known or DATA_DIR


def data_name(settings: Data, folder: Path) -> str:
    """Return what the data set is called in the name of an output folder: a folder of images by its own name."""
    if settings.dataset != "folder":
        return settings.dataset
    return folder.resolve().name.lstrip(".") or "folder"


def _require_folder(folder: Path) -> None:
    if folder.is_file():
        raise InputError(f"{folder} is a file and not a folder: give a folder as --data-dir")
    if not folder.exists():
        remedy = "correct --data-dir, or make the folder where a data set is to be downloaded to it"
        raise InputError(f"{folder} does not exist: {remedy}")


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
        group.add_argument(flag, nargs="*", action="extend", type=typing.get_args(kind)[0], metavar="X", **options)
    else:
        group.add_argument(flag, type=_reader(kind), metavar=_metavar(kind), **options)


def _note(name: str, values: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a note on the values of a setting: ` (sgd, amp: 16)`, or ` (sam: 0.05; asam: 2)`; empty without any."""
    labels: dict[str, list[str]] = {}
    for label, settings in values.items():
        if settings.get(name) is not None:
            labels.setdefault(show(settings[name]), []).append(label)
    texts = [f"{', '.join(which)}: {value}" for value, which in labels.items()]
    return f" ({'; '.join(texts)})" if texts else ""


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
            what = {int: "a whole number", float: "a number"}.get(number, _metavar(kind))
            what = f"{what.removeprefix('a ')}s with commas between" if is_list else what
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None

    return read


def _metavar(kind: Any) -> str:
    kind, _ = _without_none(kind)
    return "N,N,..." if typing.get_origin(kind) is tuple else {int: "N", float: "X"}.get(kind, "TEXT")


def _without_none(kind: Any) -> tuple[Any, bool]:
    """Return a type without None, and whether None was in it."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next(k for k in typing.get_args(kind) if k is not type(None)), True
    return kind, False
