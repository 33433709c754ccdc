"""Reading weights files: those of a run (safetensors), the baseline's checkpoints, and plain state dicts.

A file is read as data alone: no pickle in it can run code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from flatnext.config import Config
from flatnext.data import Normalization
from flatnext.errors import InputError
from flatnext.files import open_regular
from flatnext.models.catalog import find_weights
from flatnext.runs.fingerprint import DataFingerprint
from flatnext.schema import parse

DATA_PARALLEL_PREFIX = "module."


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The run that made a weights file: its config, its classes, and how its images are normalised.

    `image_size` is the side of the images in pixels, and `data` the fingerprint of all, where the file says it.
    """

    config: Config
    classes: tuple[str, ...]
    normalization: Normalization
    image_size: int | None = None
    data: DataFingerprint | None = None


def load_weights(path: str | Path, model: nn.Module) -> dict[str, Any]:
    """Load the weights in `path` into `model`, on its device and in its dtype, and return what else the file says.

    Where there is no such file, `path` may be the name of weights that ship with the package.

    The content decides which kind of file it is:

    - safetensors: its metadata (strings) is returned;
    - the baseline's checkpoint `{"model": state dict, "acc": float, "epoch": int}` as `torch.save` wrote it: accuracy
      and epoch are returned;
    - a bare state dict: nothing is returned.

    `InputError`: the file is missing or damaged, holds more than data, or is of another model, which is then unchanged.
    """
    state, metadata = read_weights(path)
    assign_weights(model, state, path)
    return metadata


def assign_weights(model: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Load what `read_weights` read from `path` into `model`. `InputError`: it is of another model; none is changed."""
    current = model.state_dict()
    _require_same_entries(path, current, state)
    try:
        # All conversions come before the first change to the model.
        converted = {name: torch.empty_like(current[name]).copy_(value) for name, value in state.items()}
    except RuntimeError as error:
        raise InputError(f"{path}: holds tensors without plain values (sparse or meta): save dense ones") from error
    model.load_state_dict(converted)


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors by name, on the CPU, and what else the file says. For kinds and errors see `load_weights`."""
    path = Path(path)
    state, metadata = _read(path if path.exists() else find_weights(path))
    if state and all(name.startswith(DATA_PARALLEL_PREFIX) for name in state):
        state = {name.removeprefix(DATA_PARALLEL_PREFIX): value for name, value in state.items()}
    return state, metadata


def read_origin(metadata: Mapping[str, Any], path: Path) -> Origin | None:
    """Return what the metadata of the file at `path` says of its run; None if no run of this package wrote it."""
    if "config" not in metadata:
        return None
    try:
        return Origin(
            config=Config.from_json(json.loads(metadata["config"])),
            classes=tuple(map(str, json.loads(metadata["classes"]))),
            normalization=Normalization(*(tuple(map(float, json.loads(metadata[key]))) for key in ("mean", "std"))),
            image_size=int(metadata["image_size"]) if "image_size" in metadata else None,
            data=parse(DataFingerprint | None, json.loads(metadata.get("data", "null")), unknown="ignore"),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: its metadata is damaged: copy the file again") from error


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with open_regular(path) as file:
            head = file.read(9)
    except OSError as error:
        raise InputError(f"{path}: cannot read the weights file: {error.strerror}") from error
    # A safetensors file is the length of its JSON header in 8 bytes, then the header.
    return _read_safetensors(path) if head[8:] == b"{" else _read_torch(path)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path}: damaged or truncated safetensors file: copy or train it again") from error


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load lets through whatever a damaged file makes zipfile or pickle raise.
        raise InputError(
            f"{path}: not a weights file, or damaged, or with more in it than tensors, numbers and strings, which is "
            "not read since it could run code: give a safetensors file, or a state dict written by torch.save"
        ) from error
    state, metadata = content, {}
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        state = content["model"]
        metadata = {key: value for key, value in content.items() if isinstance(value, (str, int, float))}
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise InputError(f"{path}: holds no state dict: give one, bare or under the key 'model'")
    return state, metadata


def _require_same_entries(path: str | Path, expected: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    differences = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [repr(name) for name in state if name not in expected],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
            for name, value in expected.items()
            if name in state and state[name].shape != value.shape
        ],
    }
    phrases = [f"{len(names)} {kind} ({_first(names)})" for kind, names in differences.items() if names]
    if phrases:
        raise InputError(
            f"{path}: weights of another model: {'; '.join(phrases)}: give the settings it was trained with"
        )


def _first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
