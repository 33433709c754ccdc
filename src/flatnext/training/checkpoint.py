"""Checkpoints: weights as safetensors that anybody can read, and beside them what a run needs to go on.

`last.safetensors` holds the weights; its metadata names the file of the optimizer's state that belongs to it. That file
is written first under a name of its own, so that replacing `last.safetensors` is the one moment at which the checkpoint
changes: a kill before it leaves the old pair, a kill after it the new one.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from flatnext.config import Config
from flatnext.errors import InputError
from flatnext.files import open_regular, write_atomically
from flatnext.models import read_origin, read_weights
from flatnext.runs.comparison import edited
from flatnext.runs.folder import RunFolder
from flatnext.runs.reading import ENVIRONMENT, read_environment
from flatnext.schema import dump


def save_weights(path: Path, model: nn.Module, metadata: Mapping[str, str]) -> None:
    """Write the model's parameters and buffers under their own names, with `metadata`, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(path, safetensors.torch.save(tensors, dict(metadata)))


def save_checkpoint(
    folder: Path, model: nn.Module, state: dict[str, Any], step: int, metadata: Mapping[str, str]
) -> None:
    """Write `last.safetensors` and the state that goes with it. `state` may hold tensors and plain values only."""
    name = f"state-{step:09d}.pt"
    buffer = io.BytesIO()
    torch.save(state, buffer)
    replaced = (folder / name).exists()
    write_atomically(folder / name, buffer.getvalue())
    try:
        save_weights(folder / "last.safetensors", model, {**metadata, "state": name})
    except InputError:
        if not replaced:
            (folder / name).unlink()
        raise
    remove_states(folder, keep=name)


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

    That of a `finished` run may be without its state. `InputError`: it is damaged, or of no run.
    """
    path = folder / "last.safetensors"
    if not path.exists():
        return None
    weights, metadata = read_weights(path)
    if "state" not in metadata:
        raise InputError(f"{path} is not the checkpoint of an unfinished run: start the run anew")
    file = folder / metadata["state"]
    if finished and not file.exists():
        return Checkpoint(path=path, weights=weights, metadata=metadata, state=None)
    try:
        with open_regular(file) as stream:
            state = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds on a damaged file
        raise InputError(f"cannot read {file}: it is damaged or missing; start the run anew") from error
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


def remove_states(folder: Path, keep: str = "") -> None:
    """Delete the optimizer states in a run folder but the one named `keep`."""
    for path in folder.glob("state-*.pt"):
        if path.name != keep:
            path.unlink(missing_ok=True)
