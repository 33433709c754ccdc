"""Reading weights files: those of a run (safetensors), the baseline's checkpoints, and plain state dicts.

A file is read as data alone: no pickle in it can run code.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from flatnext.config import Config
from flatnext.data import Normalization
from flatnext.errors import InputError, warn_of_fallback
from flatnext.files import open_regular
from flatnext.models.catalog import find_weights
from flatnext.models.pickled import read_pickled
from flatnext.runs.artifact import refusal
from flatnext.runs.conformal import Conformal
from flatnext.runs.fingerprint import DataFingerprint
from flatnext.schema import parse
from flatnext.words import counted, shortened

OF_STATE = ("state", "state_sha256")
"""What of the metadata names the state of a run, which weights that go elsewhere do not have."""

NOT_DIGESTED = (*OF_STATE, "conformal")
"""What of the metadata a digest leaves out: that, and what is added later."""

PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What DataParallel, `torch.compile`, Lightning and wrappers of one's own put before every name."""

PLACES = ("model", "state_dict", "model_state_dict", "net", "ema", "module")
"""The keys under which loops keep a state dict in a checkpoint, in the order in which they are looked for."""

AVERAGED = "n_averaged"
"""The count of updates in torch's `AveragedModel`."""

SIDES = {"cifar10": 32, "cifar100": 32, "digits": 8, "folder": 32}
"""The side of the images of each data set, for files that do not say it: those of version 0.1.0."""

COUNTERS = ("total_ops", "total_params")
"""Buffers that the profiler thop leaves in a model."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The run that made a weights file: its config, its classes, and how its images are normalised.

    `image_size` is the side of the images in pixels, `data` the fingerprint of all, and `conformal` the calibration of
    the model's answers, where the file says it. `knows_held_out`: the run started from weights that may have been
    trained on its held-out images.
    """

    config: Config
    classes: tuple[str, ...]
    normalization: Normalization
    image_size: int | None = None
    data: DataFingerprint | None = None
    conformal: Conformal | None = None
    knows_held_out: bool = False

    @property
    def side(self) -> int:
        """The side of the images in pixels, also where the file does not say it."""
        data = self.config.data
        return self.image_size or data.image_size or SIDES[data.dataset]


def load_weights(path: str | Path, model: nn.Module) -> dict[str, Any]:
    """Load the weights in `path` into `model`, on its device and in its dtype, and return what else the file says.

    Where there is no such file, `path` may be the name of weights that ship with the package.

    The content decides which kind of file it is:

    - safetensors: its metadata (strings) is returned;
    - a checkpoint as `torch.save` wrote it, with a state dict under one of `PLACES`: the numbers and strings beside it
      are returned, such as the accuracy and epoch of the baseline's `{"model": ..., "acc": ..., "epoch": ...}`;
    - a bare state dict: nothing is returned.

    Names that are not the model's may begin with `PREFIXES`, in any nesting. An averaged model's count of updates is
    left out, and so are `COUNTERS`, with a warning.

    `InputError`: the file is missing or damaged, holds more than data, or its weights do not fit the model, which is
    then unchanged.
    """
    state, metadata = read_weights(path)
    assign_weights(model, state, path)
    return metadata


def assign_weights(model: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Load what `read_weights` read from `path` into `model`. `InputError`: it is of another model; none is changed."""
    current = model.state_dict()
    state = fit_names(state, current, path)
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
    return _read(path if path.exists() else find_weights(path))


def read_origin(metadata: Mapping[str, Any], path: Path) -> Origin | None:
    """Return what the metadata of the file at `path` says of its run; None if no run of this package wrote it."""
    if "config" not in metadata or not {"classes", "mean", "std"} & metadata.keys():
        return None
    try:
        mean, std = (tuple(map(float, json.loads(metadata[key]))) for key in ("mean", "std"))
        image_size = int(metadata["image_size"]) if "image_size" in metadata else None
        if not all(map(math.isfinite, (*mean, *std))) or (image_size is not None and image_size < 1):
            raise ValueError
        return Origin(
            config=Config.from_json(json.loads(metadata["config"])),
            classes=tuple(map(str, json.loads(metadata["classes"]))),
            normalization=Normalization(mean, std),
            image_size=image_size,
            data=parse(DataFingerprint | None, json.loads(metadata.get("data", "null")), unknown="ignore"),
            conformal=parse(Conformal | None, json.loads(metadata.get("conformal", "null")), unknown="ignore"),
            knows_held_out=json.loads(metadata.get("knows_held_out", "false")) is True,
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: its metadata is damaged: copy the file again") from error


def require_origin(metadata: Mapping[str, Any], path: Path) -> Origin:
    """Return what `read_origin` does. `InputError`: no run of this package wrote the file."""
    if (origin := read_origin(metadata, path)) is None:
        raise InputError(f"{path} does not say its classes: give a run folder or a weights file of this package")
    return origin


def origin_of(path: Path) -> Origin | None:
    """Return what a file of weights says of its run; None if no run of this package wrote it."""
    return read_origin(read_weights(path)[1], path)


def without_state(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a file without what names the state of its run."""
    return {name: value for name, value in metadata.items() if name not in OF_STATE}


def digest_weights(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """Return the SHA-256 of tensors by name (types, shapes and bytes) and of what a file says of them.

    A file that is calibrated, or written anew in another order, keeps it.
    """
    said = {name: value for name, value in metadata.items() if name not in NOT_DIGESTED}
    found = hashlib.sha256(repr(sorted(said.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with open_regular(path) as file:
            head = file.read(9)
    except OSError as error:
        raise InputError(f"{path}: cannot read the weights file: {error.strerror}") from error
    # A safetensors file is the length of its JSON header in 8 bytes, then the header.
    if head[8:] == b"{":
        return _read_safetensors(path)
    try:
        return _read_torch(path)
    except InputError as error:
        raise InputError(refusal(path) or str(error)) from error


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path}: damaged or truncated safetensors file: copy or train it again") from error


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    content = read_pickled(path)
    state = _state_dict(content)
    if state is None:
        keys = shortened(map(repr, content), 8) if isinstance(content, dict) else ""
        keys = f"; it has {keys}" if keys else ""
        raise InputError(
            f"{path}: holds no state dict, bare or under {', '.join(PLACES)}{keys}: save one with "
            "torch.save(model.state_dict(), PATH)"
        )
    beside = {} if state is content else content
    return state, {key: value for key, value in beside.items() if isinstance(value, (str, int, float))}


def _state_dict(content: Any, depth: int = 3) -> dict[str, Tensor] | None:
    """Return the state dict that a checkpoint is, or holds under one of `PLACES`."""
    if not isinstance(content, dict) or depth == 0:
        return None
    if all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        return content
    inside = (_state_dict(content.get(place), depth - 1) for place in PLACES)
    return next((state for state in inside if state is not None), None)


def fit_names(state: dict[str, Tensor], expected: Container[str], path: Path | str) -> dict[str, Tensor]:
    """Return a state dict without the prefixes and entries that a wrapper or profiler of the model has added."""
    added = [name for name in state if name not in expected]
    counters = [name for name in added if name.rpartition(".")[2] in COUNTERS]
    if counters:
        warn_of_fallback(f"{path}: {counted(len(counters), 'counter')} of thop left out ({shortened(counters)})")
    left_out = {*counters, *(name for name in added if name == AVERAGED)}
    state = {name: value for name, value in state.items() if name not in left_out}
    while state and not any(name in expected for name in state):
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def input_channels(state: Mapping[str, Tensor]) -> int | None:
    """Return the number of channels that the stem of a `Network` takes, by its weights; None where there is no stem."""
    stems = [name for name, value in state.items() if f".{name}".endswith(".conv1.weight") and value.ndim == 4]
    stem = min(stems, key=lambda name: name.count("."), default=None)  # blocks have a layer of that name as well
    return None if stem is None else state[stem].shape[1]


def _require_same_entries(path: str | Path, expected: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    differences = {
        "missing": [name for name in expected if name not in state],
        "left over": [repr(name) for name in state if name not in expected],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
            for name, value in expected.items()
            if name in state and state[name].shape != value.shape
        ],
    }
    phrases = [f"{len(names)} {kind} ({shortened(names)})" for kind, names in differences.items() if names]
    if phrases:
        same = len(expected) - len(differences["missing"]) - len(differences["of another shape"])
        what = "weights of another model" if same == 0 else f"{same} of {len(expected)} entries fit"
        raise InputError(f"{path}: {what}: {'; '.join(phrases)}: give the model's settings that it was trained with")
