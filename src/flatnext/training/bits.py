"""Comparing what two trainings left, to the bit: tensors, metrics, and the circumstances."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from flatnext.runs.records import Epoch, Machine, Session
from flatnext.words import counted

TIMES = ("train_seconds", "evaluation_seconds", "images_per_second")
"""What two trainings never share."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of `tensors`, `differing` have other bits; `largest` is the largest difference of a number in them."""

    tensors: int
    differing: int
    largest: float


def compare_tensors(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Difference:
    """Return how tensors differ from others of the same names; one that is missing, or has another shape, differs."""
    differing = [name for name in theirs if name not in ours or not same_bits(ours[name], theirs[name])]
    alike = [name for name in differing if name in ours and ours[name].shape == theirs[name].shape]
    sizes = [float((ours[name].double() - theirs[name].double()).abs().max()) for name in alike]
    return Difference(tensors=len(theirs), differing=len(differing), largest=max(sizes, default=0.0))


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Return whether two tensors have the same type, shape and bytes."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    a, b = (tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in (left, right))
    return torch.equal(a, b)


def measured(epoch: Epoch) -> dict[str, Any]:
    """Return the metrics of an epoch by name, but for the times."""
    return {item.name: getattr(epoch, item.name) for item in fields(epoch) if item.name not in TIMES}


def differing_metrics(ours: Epoch, theirs: Epoch) -> tuple[str, ...]:
    """Return the names of the metrics that differ, but for the times."""
    left, right = measured(ours), measured(theirs)
    return tuple(name for name in left if left[name] != right[name])


def differing_circumstances(now: Mapping[str, Any], was: Mapping[str, Any], names: Iterable[str]) -> tuple[str, ...]:
    """Return phrases on what is not as it was."""
    return tuple(f"{name} {now[name]} instead of {was[name]}" for name in names if now[name] != was[name])


def sessions_of(sessions: Sequence[Session], first: int, last: int) -> list[Session]:
    """Return the sessions that took the steps from `first` to before `last`: of a step, the last that began by then."""
    steps = sorted({first, *(s.from_step for s in sessions if first < s.from_step < last)})
    found = [[session for session in sessions if session.from_step <= step][-1:] for step in steps]
    return [session for several in found for session in several] or [sessions[0]]


def mixed_sessions(sessions: Sequence[Session]) -> tuple[str, ...]:
    """Return phrases on what was not the same in all sessions that took the steps."""
    names = tuple(item.name for item in fields(Machine))
    values = {name: list(dict.fromkeys(str(getattr(session, name)) for session in sessions)) for name in names}
    return tuple(f"{name} {' and '.join(of)} in its sessions" for name, of in values.items() if len(of) > 1)


def different(difference: Difference) -> str:
    """Return how many tensors differ, and by how much, in words."""
    tensors = counted(difference.tensors, "tensor")
    return f"{difference.differing} of {tensors} differ, by at most {difference.largest:.3g}"
