"""Checkpoints: weights as safetensors that anybody can read, and beside them what a run needs to go on.

`last.safetensors` holds the weights; its metadata names the file of the optimizer's state that belongs to it. That file
is written first under a name of its own, so that replacing `last.safetensors` is the one moment at which the checkpoint
changes: a kill before it leaves the old pair, a kill after it the new one. The pair before it is kept as
`previous.safetensors` with its state. Each file of a pair has the SHA-256 of the other's content, so that a bit that
has changed on the disk is noticed: then the pair before it is used.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from flatnext.config import Config
from flatnext.errors import InputError, warn_of_fallback
from flatnext.files import open_regular, write_atomically
from flatnext.models import read_origin, read_weights
from flatnext.runs.comparison import edited
from flatnext.runs.folder import RunFolder
from flatnext.runs.reading import ENVIRONMENT, read_environment
from flatnext.schema import dump

LAST, PREVIOUS = "last.safetensors", "previous.safetensors"


def save_weights(path: Path, model: nn.Module, metadata: Mapping[str, str]) -> None:
    """Write the model's parameters and buffers under their own names, with `metadata`, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(path, safetensors.torch.save(tensors, dict(metadata)))


def save_checkpoint(
    folder: Path, model: nn.Module, state: dict[str, Any], step: int, metadata: Mapping[str, str]
) -> None:
    """Write `last.safetensors` and the state that goes with it. `state` may hold tensors and plain values only."""
    buffer = io.BytesIO()
    torch.save({**state, "weights_sha256": _digest(model.state_dict())}, buffer)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    name = f"state-{step:09d}-{digest[:8]}.pt"  # of two at one step, neither replaces the other's
    replaced = (folder / name).exists()
    write_atomically(folder / name, content)
    try:
        _keep_previous(folder, name)
        metadata = {**metadata, "state": name, "state_sha256": digest}
        save_weights(folder / LAST, model, metadata)
    except InputError:
        if not replaced:
            (folder / name).unlink()
        raise
    _remove_states(folder, keep=(name, _state_of(folder / PREVIOUS)))


def _keep_previous(folder: Path, name: str) -> None:
    """Keep the last checkpoint as the previous one, unless its state is the one called `name`, which is replaced."""
    last, temporary = folder / LAST, folder / f".{PREVIOUS}.{os.getpid()}.tmp"
    if _state_of(last) in (None, name):
        return
    try:
        try:
            os.link(last, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(last, temporary)
        os.replace(temporary, folder / PREVIOUS)
    except OSError as error:
        raise InputError(f"cannot write {folder / PREVIOUS}: {error.strerror}; free the disk") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)  # it is still there where both were the same file


def _state_of(path: Path) -> str | None:
    """Return the name of the state that belongs to a checkpoint's weights; None where there are none that say it."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("state")
    except (safetensors.SafetensorError, OSError):
        return None


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors by name: their types, shapes and bytes."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What `last.safetensors` at `path` and the state beside it hold; a finished run may have no state any more."""

    path: Path
    weights: dict[str, Tensor]
    metadata: dict[str, Any]
    state: dict[str, Any] | None

    def require_config(self, *configs: Config) -> None:
        """Raise `InputError` if the run had none of these configs: it would go on as no run that was."""
        origin = read_origin(self.metadata, self.path)
        if origin is None or origin.config not in configs:
            words = edited(self.path.parent, configs[0]) or f"{self.path} does not say how it was trained"
            raise InputError(f"{words}, or start a run anew with another --output")


def read_checkpoint(folder: Path, *, finished: bool = False) -> Checkpoint | None:
    """Return the last checkpoint of a run, on the CPU, or None if there is none yet.

    Where it is damaged, that is said, and the one before it is returned. That of a `finished` run may be without its
    state. `InputError`: both are damaged, or it is of no run.
    """
    path, previous = folder / LAST, folder / PREVIOUS
    if not path.exists():
        return None
    try:
        return _read(path, finished)
    except InputError as error:
        if finished or not previous.exists():
            raise
        checkpoint = _read(previous, finished)
        warn_of_fallback(f"{error}: the checkpoint before it is used, {previous}")
        return checkpoint


def read_last_weights(folder: Path) -> tuple[Path, dict[str, Tensor], dict[str, Any]] | None:
    """Return the file, weights and metadata of a run's last checkpoint that can be read; None if there is none.

    Its state is not looked at: another process may be training in the folder.
    """
    paths = [path for path in (folder / LAST, folder / PREVIOUS) if path.exists()]
    for path in paths[:-1]:
        with suppress(InputError):  # whoever goes on from it will be told
            return path, *read_weights(path)
    return (paths[-1], *read_weights(paths[-1])) if paths else None


def _read(path: Path, finished: bool) -> Checkpoint:
    weights, metadata = read_weights(path)
    if "state" not in metadata:
        raise InputError(f"{path} is not the checkpoint of an unfinished run: start the run anew")
    file = path.parent / metadata["state"]
    if finished and not file.exists():
        return Checkpoint(path=path, weights=weights, metadata=metadata, state=None)
    try:
        with open_regular(file) as stream:
            content = stream.read()
        if hashlib.sha256(content).hexdigest() != metadata.get("state_sha256", hashlib.sha256(content).hexdigest()):
            raise ValueError("its content has changed")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds on a damaged file
        raise InputError(f"cannot read {file}: it is damaged or missing; start the run anew") from error
    if state.get("weights_sha256") not in (None, _digest(weights)):
        raise InputError(f"{path} is damaged: its content has changed since it was written; start the run anew")
    return Checkpoint(path=path, weights=weights, metadata=metadata, state=state)


def state_of_finished(folder: RunFolder, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what is known of a finished run's state from its other files: all but momentum and unaveraged weights.

    The optimizer begins anew, and with `ema` so do the weights, from their average.
    """
    result, environment = folder.result(), read_environment(folder.path / ENVIRONMENT)
    best = result.best
    return {
        "optimizer": None,
        "weights": checkpoint.weights,
        "precision": environment.precision,
        "epoch": result.last.epoch,
        "step_in_epoch": 0,
        "best": {"epoch": best.epoch, "validation": dump(best.validation)} if best and best.validation else None,
        "train_seconds": result.train_seconds,
        "metric_sums": None,
        "data": dump(environment.data),
    }


def remove_states(folder: Path, *, keep_last: bool = False) -> None:
    """Delete what a run needs to go on, when it has finished; with `keep_last` all but the state of the last epoch."""
    (folder / PREVIOUS).unlink(missing_ok=True)
    _remove_states(folder, keep=(_state_of(folder / LAST),) if keep_last else ())


def _remove_states(folder: Path, keep: Iterable[str | None]) -> None:
    for path in folder.glob("state-*.pt"):
        if path.name not in keep:
            path.unlink(missing_ok=True)
