"""Moving weights to a perturbed point and back, and the ball that the perturbation stays in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from flatnext.errors import InputError

TINY = 1e-12  # keeps a norm of zero from being divided by; the authors of AMP and SAM add the same


def check(**settings: object) -> None:
    """Raise `InputError` for a number, or one of several, that is negative, or for a ball that is unknown."""
    for name, value in settings.items():
        numbers = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        for number in numbers:
            if isinstance(number, (int, float)) and not 0 <= number < math.inf:
                raise InputError(f"{name} is {number}: it must be finite and not negative")
    if settings.get("ball", "tensor") not in ("tensor", "global"):
        raise InputError(f"ball is {settings['ball']!r}: choose tensor or global")


@contextmanager
def restored(tensors: Sequence[Tensor], buffers: Sequence[Tensor] = ()) -> Iterator[list[Tensor]]:
    """Put `tensors` and `buffers` back as they are now, to the bit, when the block ends; yield copies of `tensors`.

    They are copied back, since adding a perturbation and subtracting it again does not give the same bits.
    """
    saved, saved_buffers = [t.detach().clone() for t in tensors], [b.detach().clone() for b in buffers]
    try:
        yield saved
    finally:
        with torch.no_grad():
            for tensor, value in zip([*tensors, *buffers], [*saved, *saved_buffers], strict=True):
                tensor.copy_(value)
        torch.clear_autocast_cache()


@torch.no_grad()
def move(tensors: Sequence[Tensor], origin: Sequence[Tensor], delta: Sequence[Tensor]) -> None:
    """Set `tensors` to `origin` + `delta`."""
    for tensor, start, offset in zip(tensors, origin, delta, strict=True):
        torch.add(start, offset, out=tensor)
    # If the caller's autocast is around the rule, it has kept narrow copies of the weights of the pass before.
    torch.clear_autocast_cache()


@torch.no_grad()
def norms(tensors: Sequence[Tensor], ball: str) -> Tensor:
    """Return the L2 norm of each tensor (ball "tensor"), or for each the norm of all together (ball "global")."""
    wide = torch.promote_types(tensors[0].dtype, torch.float32)  # TINY would be 0 in half precision
    each = torch.stack([torch.linalg.vector_norm(t, dtype=wide) for t in tensors])
    return torch.linalg.vector_norm(each).expand_as(each) if ball == "global" else each


@torch.no_grad()
def clip(delta: Sequence[Tensor], radius: float | Tensor, ball: str) -> None:
    """Scale `delta` in place into its ball; what is inside already stays. `radius` may be one number a tensor."""
    scales = (radius / (norms(delta, ball) + TINY)).clamp(max=1.0)
    for tensor, scale in zip(delta, scales, strict=True):
        tensor.mul_(scale)
