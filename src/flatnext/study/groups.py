"""The finished runs of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flatnext.config import Config
from flatnext.runs.records import RunRecord


@dataclass(frozen=True)
class Group:
    """The finished runs of one recipe, in the order of their seeds: one config but for the seed."""

    label: str
    config: Config
    runs: tuple[RunRecord, ...]


def settings(config: Config) -> dict[str, Any]:
    """Return the settings that distinguish recipes, by name: all but `recipe` and `seed`."""
    flat: dict[str, Any] = {}
    for name, value in config.to_json().items():
        if isinstance(value, dict):
            flat |= {name if inner == "name" else inner: item for inner, item in value.items()}
        elif name not in ("recipe", "seed"):
            flat[name] = value
    return flat


def setting_text(value: Any) -> str:
    """Return a setting's value as people write it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
