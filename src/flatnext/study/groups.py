"""The finished runs of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flatnext.config import Config
from flatnext.config.setting import show
from flatnext.runs.records import RunRecord
from flatnext.schema import dump
from flatnext.words import DASH


@dataclass(frozen=True)
class Group:
    """The finished runs of one recipe, in the order of their seeds: one config but for the seed."""

    label: str
    config: Config
    runs: tuple[RunRecord, ...]


def settings(config: Config) -> dict[str, Any]:
    """Return the settings that distinguish recipes, by name: all but `recipe` and `seed`."""
    return {name: value for name, value in dump(config.flat()).items() if name != "seed"}


def setting_text(value: Any) -> str:
    """Return a setting's value as people write it, with a dash for what is not set."""
    return DASH if value is None else show(value, ", ")
