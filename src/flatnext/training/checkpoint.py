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
from flatnext.files import copy_atomically, open_regular, write_atomically
from flatnext.models import Origin, digest_weights, input_channels, read_origin, read_weights
from flatnext.runs.comparison import edited
from flatnext.runs.folder import KEPT, RunFolder
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
    torch.save({**state, "weights_digest": digest_weights(model.state_dict(), metadata)}, buffer)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    name = f"state-{step:09d}-{digest[:8]}.pt"  # of two at one step, neither replaces the other's
    replaced = (folder / name).exists()
    write_atomically(folder / name, content)
    try:
        if _state_of(folder / LAST) not in (None, name):
            copy_atomically(folder / LAST, folder / PREVIOUS)
        save_weights(folder / LAST, model, {**metadata, "state": name, "state_sha256": digest})
    except InputError:
        if not replaced:
            with suppress(OSError):
                (folder / name).unlink()
        raise
    _remove_states(folder, keep=(name, _state_of(folder / PREVIOUS)))


def keep_checkpoint(folder: Path, epoch: int, count: int | None) -> Path | None:
    """Keep the last checkpoint, that after `epoch` epochs, and of those that are kept the last `count` (None: all).

    Returns the file of its weights; None where there is no checkpoint, or its state is gone.
    """
    state = _state_of(folder / LAST)
    if count == 0 or state is None or not (folder / state).exists():
        return None
    place = folder / KEPT
    try:
        place.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {place}: {error.strerror}; free the disk") from error
    copy_atomically(folder / state, place / state)
    kept = kept_path(folder, epoch)
    copy_atomically(folder / LAST, kept)
    remove_kept(folder, count)
    return kept


def remove_kept(folder: Path, count: int | None) -> None:
    """Delete the kept checkpoints but for the last `count` (None: all of them stay)."""
    files = list(kept_checkpoints(folder).values())
    left = files if count is None else files[len(files) - min(count, len(files)) :]
    for path in files[: len(files) - len(left)]:
        path.unlink(missing_ok=True)
    _remove_states(folder / KEPT, keep=[_state_of(path) for path in left])
    if not left:
        with suppress(OSError):
            (folder / KEPT).rmdir()


def kept_path(folder: Path, epoch: int) -> Path:
    """Return where the checkpoint after so many epochs is kept."""
    return folder / KEPT / f"epoch-{epoch:05d}.safetensors"


def kept_checkpoints(folder: Path) -> dict[int, Path]:
    """Return the weights of the kept checkpoints by the number of epochs that they have had, in ascending order."""
    names = sorted((folder / KEPT).glob("epoch-*.safetensors"))
    return {int(path.stem.partition("-")[2]): path for path in names if path.stem.partition("-")[2].isdecimal()}


def read_metadata(path: Path) -> dict[str, str] | None:
    """Return what a checkpoint's weights say of themselves, without reading them; None where there are none."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, OSError):
        return None


def _state_of(path: Path) -> str | None:
    """Return the name of the state that belongs to a checkpoint's weights; None where there are none that say it."""
    return (read_metadata(path) or {}).get("state")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What the weights at `path` and the state beside them hold; a finished run may have no state any more."""

    folder: Path
    path: Path
    weights: dict[str, Tensor]
    metadata: dict[str, Any]
    state: dict[str, Any] | None

    @property
    def origin(self) -> Origin | None:
        """What the weights say of their run; `InputError`: that is damaged."""
        return read_origin(self.metadata, self.path)

    @property
    def step(self) -> int:
        """The steps that the run had taken."""
        return int(self.metadata["step"])

    @property
    def channels(self) -> int | None:
        """The channels of the images."""
        return input_channels(self.weights)

    def require_config(self, *configs: Config) -> None:
        """Raise `InputError` if the run had none of these configs: it would go on as no run that was."""
        origin = self.origin
        if origin is None or origin.config not in configs:
            words = edited(self.folder, configs[0]) or f"{self.path} does not say how it was trained"
            raise InputError(f"{words}, or start a run anew with another --output")


def read_checkpoint(folder: Path, *, finished: bool = False) -> Checkpoint | None:
    """Return the last checkpoint of a run, on the CPU, or None if there is none yet.

    Where it is damaged, that is said, and the one before it is returned, or else the last of those that were kept.
    That of a `finished` run may be without its state. `InputError`: all are damaged, or it is of no run.
    """
    earlier = [folder / PREVIOUS, *reversed(kept_checkpoints(folder).values())]
    paths = [folder / LAST, *(path for path in earlier if not finished and path.exists())]
    if len(paths) == 1 and not paths[0].exists():
        return None
    problems: list[str] = []
    for path in paths:
        try:
            checkpoint = read_pair(folder, path, finished=finished)
        except InputError as error:
            problems.append(str(error))
            continue
        if problems:
            warn_of_fallback(f"{'; '.join(problems)}: the checkpoint before it is used, {path}")
        return checkpoint
    raise InputError(f"{'; '.join(problems)}: start the run anew, with --overwrite or another --output")


def put_last(checkpoint: Checkpoint) -> None:
    """Let a checkpoint that was read in place of a damaged one be the last: its files are then those that are kept."""
    path, last = checkpoint.path, checkpoint.folder / LAST
    if path == last:
        return
    state = checkpoint.metadata["state"]
    if path.parent != checkpoint.folder:
        copy_atomically(path.parent / state, checkpoint.folder / state)
    copy_atomically(path, last)


def read_pair(folder: Path, path: Path, *, finished: bool = False) -> Checkpoint:
    """Return the checkpoint of a run whose weights are at `path`. `InputError` says what is wrong, and no remedy."""
    try:
        weights, metadata = read_weights(path)
    except InputError as error:
        reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else None
        words = "is missing" if not path.exists() else f"cannot be read ({reason})" if reason else "is damaged"
        raise InputError(f"{path} {words}") from error
    if "state" not in metadata:
        raise InputError(f"{path} is not the checkpoint of an unfinished run")
    file = path.parent / metadata["state"]
    if finished and not file.exists():
        return Checkpoint(folder=folder, path=path, weights=weights, metadata=metadata, state=None)
    try:
        with open_regular(file) as stream:
            content = stream.read()
        if hashlib.sha256(content).hexdigest() != metadata.get("state_sha256", hashlib.sha256(content).hexdigest()):
            raise ValueError("its content has changed")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        digest = state.get("weights_digest")
    except Exception as error:  # torch.load raises many kinds on a damaged file
        raise InputError(f"{file} is damaged or missing") from error
    if digest not in (None, digest_weights(weights, metadata)):
        raise InputError(f"{path} is damaged: its content has changed since it was written")
    return Checkpoint(folder=folder, path=path, weights=weights, metadata=metadata, state=state)


def state_of_finished(folder: RunFolder, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what is known of a finished run's state from its other files: all but momentum and unaveraged weights.

    The optimizer begins anew, and with `ema` so do the weights, from their average.
    """
    result, environment = folder.result(), folder.environment()
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
        "rollbacks": dump(environment.rollbacks),
    }


def remove_previous(folder: Path) -> None:
    """Delete the checkpoint before the last: the last is known to be good, as when its run has its result."""
    (folder / PREVIOUS).unlink(missing_ok=True)
    _remove_states(folder, keep=[_state_of(folder / LAST)])


def remove_state(folder: Path) -> None:
    """Delete what a run needs to go on, and leave its last weights."""
    remove_previous(folder)
    _remove_states(folder, keep=[])


def _remove_states(folder: Path, keep: Iterable[str | None]) -> None:
    for path in folder.glob("state-*.pt"):
        if path.name not in keep:
            path.unlink(missing_ok=True)
