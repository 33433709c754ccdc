"""A config of one's own in a file: JSON, YAML or TOML, by its suffix."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flatnext.config import Config, as_new_run, from_partial, recipe
from flatnext.errors import InputError, choose
from flatnext.files import read_text


def read_config_file(file: Path) -> Config:
    """Return the config in a file: what it leaves out is from the recipe that it names.

    `InputError` names the file, and the line or the setting that is wrong: a key that is given twice is, in each of the
    formats.
    """
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise InputError(f"{file} is a config in no known format: {choose(file.suffix, READERS)}")
    try:
        return from_partial(reader(read_text(file)))
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except (ValueError, RecursionError) as error:
        words = " ".join(str(error).split())
        raise InputError(f"{file} is not {file.suffix[1:].upper()} ({words}): correct it") from error


def is_config_file(name: str) -> bool:
    """Return whether a name is that of a config in a file, by its suffix."""
    return Path(name).suffix.lower() in READERS


def named_or_in_file(name: str) -> Config:
    """Return the config of a recipe, or that in a file, where the name has the suffix of one.

    The recipe of a file is called RECIPE-FILE, so that it is told from the one that it names: `amp-best` of
    `tuning/amp/best.json`. Raises `InputError`.
    """
    if not is_config_file(name):
        return recipe(name)
    file = Path(name)
    config = as_new_run(read_config_file(file))
    return replace(config, recipe=re.sub(r"[^\w.+-]+", "-", f"{config.recipe}-{file.stem}"))


def _json(text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        names = [name for name, _ in pairs]
        if len(content) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{twice!r} is given twice: give it once")
        return content

    return json.loads(text, object_pairs_hook=once)


def _yaml(text: str) -> Any:
    import yaml  # a fraction of a second to import, and rarely needed

    class Loader(yaml.SafeLoader):
        """The safe loader, with numbers such as 5e-4 as people write them, and without keys that are given twice."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen:
                    raise InputError(f"{key.value!r} is given twice, in line {key.start_mark.line + 1}: give it once")
                seen.add(str(key.value))
            return super().construct_mapping(node, deep)

    # YAML 1.1 takes 064 for 52, and 1:04 for 64: here they are the text that they are in YAML 1.2, JSON and TOML.
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:int"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    whole = re.compile(r"[-+]?(0|[1-9][0-9_]*)$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", whole, list("-+0123456789"))
    number = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")  # YAML 1.1 wants a point and a sign in it
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    try:
        content = yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{error.problem}{place}") from error
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    return {} if content is None else content


def _toml(text: str) -> Mapping[str, Any]:
    return tomllib.loads(text)


READERS: dict[str, Callable[[str], Any]] = {".json": _json, ".yaml": _yaml, ".yml": _yaml, ".toml": _toml}
"""The reader of each format, by its suffix."""
