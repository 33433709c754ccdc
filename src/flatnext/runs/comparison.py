"""In what two configs differ, and whether that of a run is still the one that its weights were trained with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flatnext.config import Config, flag_of
from flatnext.config.setting import show
from flatnext.errors import InputError, warn_of_fallback
from flatnext.files import open_regular, read_json

LARGEST_HEADER = 100_000_000
"""Bytes of a safetensors header, as its readers limit it."""


def differing(there: Any, wanted: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """Return each setting in which two configs, as JSON, differ, by its full name, with its two values."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        keys = [*there, *(key for key in wanted if key not in there)]
        return [
            found
            for key in keys
            for found in differing(there.get(key), wanted.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if there == wanted else [(name, there, wanted)]


def differences(there: Any, wanted: Any) -> list[str]:
    """Return a phrase for each setting in which two configs, as JSON, differ."""
    return [f"{name} = {was}, not {now}" for name, was, now in differing(there, wanted)]


def as_flag(name: str, was: Any, now: Any) -> str:
    """Return how a setting differed in words of the command line: `with --image-size 8, which is not given now`."""
    flag = flag_of(name.removesuffix(".name").rpartition(".")[2])
    before, after = show(was, exact=True), show(now, exact=True)
    if was is None:
        return f"without {flag}, which is {after} now"
    return f"with {flag} {before}, {'which is not given now' if now is None else f'not {after}'}"


def trained_config(weights: Path) -> Config | None:
    """Return the config in the metadata of a weights file; None if it has none, or is not there. Without torch."""
    try:
        with open_regular(weights) as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size <= LARGEST_HEADER else {}
        config = json.loads(header["__metadata__"]["config"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # damaged files are for those who need them
        return None
    return Config.from_json(config)


def edited(folder: Path, config: Config) -> str | None:
    """Return how `config`, that of a run folder, differs from that of its last weights, and what to do; None: it is.

    What a checkpoint belongs to is in the checkpoint: `config.json` is a copy for readers.
    """
    weights = folder / "last.safetensors"
    trained = trained_config(weights)
    if trained is None or trained == config:
        return None
    if trained.epochs > config.epochs:
        return (
            f"{weights} was trained with epochs = {trained.epochs}, not {config.epochs} as config.json has it: put "
            f"config.json back; if the run was being made longer, repeat that command, with --epochs {trained.epochs}"
        )
    words = "; ".join(differences(trained.to_json(), config.to_json()))
    return f"{weights} was trained with {words} as config.json has it: put config.json back"


def require_as_trained(folder: Path, config: Config) -> None:
    """Raise `InputError` where the config of a run folder was edited after training."""
    if words := edited(folder, config):
        raise InputError(words)


def warn_if_edited(folder: Path) -> None:
    """Warn where the config of a run folder was edited after training: the weights go by their own."""
    file = folder / "config.json"
    try:
        config = Config.from_json(read_json(file)) if file.is_file() else None
    except InputError:  # no run's, or one of no use
        return
    if config and (words := edited(folder, config)):
        warn_of_fallback(f"{words}; what the weights say holds")
