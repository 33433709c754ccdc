"""What a config is called, so that its name says what it is; and configs from files that name a recipe."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from flatnext.config.config import Config, with_present_names
from flatnext.config.method import METHODS
from flatnext.config.model import Model, model_name
from flatnext.config.names import require_names
from flatnext.config.recipes import recipe
from flatnext.config.setting import Settings, require, show, type_hints
from flatnext.errors import InputError, choose
from flatnext.schema import parse, shown

SHOWN = 3
"""Settings that a label names; of more it gives the number."""

LONGEST = 80
"""Characters of a folder's name that say how the settings differ; where they are more, a digest stands for them."""


def differences(config: Config) -> dict[str, Any]:
    """Return the settings, by name, that are not those of the recipe that the config names.

    Seed, data set and the SHA-256 of weights are left out: they are said besides. A named model is one setting,
    `model`. Where the name is no recipe's there are none.
    """
    base = _origin(config)
    if base is None:
        return {}
    start = config.start
    there = base.flat() | {"seed": config.seed, "dataset": config.data.dataset, "weights_sha256": start.weights_sha256}
    differing = {name: value for name, value in config.flat().items() if name not in there or there[name] != value}
    parts = {item.name for item in fields(Model)} - {"parameter_budget"}
    named = model_name(config.model)
    if named and differing.keys() & parts:
        differing = {"model": named} | {name: value for name, value in differing.items() if name not in parts}
    return differing


def recipe_name(config: Config) -> str:
    """Return the recipe's name; `RECIPE+METHOD` where the method is not that recipe's."""
    base = _origin(config)
    return base.recipe if base else config.recipe


def names_recipe(config: Config) -> bool:
    """Return whether the config's name is that of a recipe, or RECIPE+METHOD, and not one of its own."""
    return _origin(config) is not None


def labelled(name: str, settings: Mapping[str, Any]) -> str:
    """Return a recipe's name with settings that are not the recipe's: `amp (epsilon=0.1)`; of many, only the first."""
    texts = [f"{key}={show(value)}" for key, value in settings.items()]
    if len(texts) > SHOWN:
        texts = [*texts[: SHOWN - 1], f"{len(texts) - SHOWN + 1} more settings"]
    return f"{name} ({', '.join(texts)})" if texts else name


def folder_name(config: Config, data: str) -> str:
    """Return DATA-MODEL-RECIPE-seed-SEED, with the other settings that are not the recipe's: a name for each config.

    `data` is what the data set is called. A model without a name is called by its block.
    """
    differing = differences(config)
    model = model_name(config.model) or config.model.block
    differing.pop("model", None)
    details = "-".join(f"{name}-{show(value, exact=True)}".replace("_", "-") for name, value in differing.items())
    if len(details) > LONGEST:
        details = hashlib.sha256(details.encode()).hexdigest()[:8]
    parts = (data, model, recipe_name(config), details, f"seed-{config.seed}")
    return re.sub(r"[^\w.,+-]+", "-", "-".join(filter(None, parts)))


def from_partial(content: Any) -> Config:
    """Return the config of a JSON object that names a recipe and gives some settings, which replace the recipe's.

        >>> from_partial({"recipe": "amp", "method": {"epsilon": 0.1}}).method.inner_lr
        0.5

    Without a recipe the others are the defaults of `Config`. A name that is no recipe's is the config's own: it must
    give every setting. Raises `InputError`.
    """
    require(isinstance(content, Mapping), "config is no object with settings by name")
    content = with_present_names(content)
    name = content.get("recipe", "custom")
    require(isinstance(name, str), f"config.recipe is {shown(name)}: give a name")
    try:
        base = Config() if name == "custom" else recipe(name)
    except InputError as error:
        config = Config.from_json(content)
        if config.flat().keys() > _flatten(content, config).keys():
            raise InputError(f"{error}; a config with a name of its own gives every setting") from None
        return config
    return base.override(_flatten(content, base))


def _origin(config: Config) -> Config | None:
    """Return the recipe that a config names, with the config's method; None where the name is no recipe's."""
    try:
        base = recipe(config.recipe)
        return base.override({"method": config.method.name})
    except InputError:
        return None


def _flatten(content: Mapping[str, Any], base: Config) -> dict[str, Any]:
    """Return the settings in the sections of a JSON object by their names alone, as `Config.override` takes them."""
    settings: dict[str, Any] = {}
    require_names(content, base, base)
    for name, value in content.items():
        section: Any = getattr(base, name)
        if not isinstance(section, Settings) or (name in ("model", "method") and isinstance(value, str)):
            settings[name] = value
            continue
        at = f"config.{name}"
        require(isinstance(value, Mapping), f"{at} is {shown(value)}: give an object with settings by name")
        if name == "method" and "name" in value:
            method = value["name"] if isinstance(value["name"], str) else ""
            require(method in METHODS, f"{at}: unknown name {shown(value['name'])}: {choose(method, METHODS)}")
            settings["method"], section = value["name"], METHODS[value["name"]]
            value = {key: item for key, item in value.items() if key != "name"}
        require_names(value, section, base, name)
        hints = type_hints(section if isinstance(section, type) else type(section))
        settings |= {key: parse(hints[key], item, f"{at}.{key}") for key, item in value.items()}
    settings.pop("recipe", None)
    return settings
