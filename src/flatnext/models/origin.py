"""What a weights file of ours says of the run that made it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flatnext.config import Config
from flatnext.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The config of the run, and its classes and normalisation (pixels in [0, 1], a channel each).

    `image_size` is the side of the images in pixels, where the file says it.
    """

    config: Config
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int | None = None


def read_origin(metadata: Mapping[str, Any], path: Path) -> Origin | None:
    """Return what the metadata of the file at `path` says; None for files of other origin, which say nothing."""
    if "config" not in metadata:
        return None
    try:
        return Origin(
            config=Config.from_json(json.loads(metadata["config"])),
            classes=tuple(map(str, json.loads(metadata["classes"]))),
            mean=tuple(map(float, json.loads(metadata["mean"]))),
            std=tuple(map(float, json.loads(metadata["std"]))),
            image_size=int(metadata["image_size"]) if "image_size" in metadata else None,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: its metadata is damaged: copy the file again") from error
