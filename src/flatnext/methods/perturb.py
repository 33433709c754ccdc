"""Moving weights to a perturbed point and back, and the ball that the perturbation stays in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

TINY = 1e-12  # keeps a norm of zero from being divided by; the authors of AMP and SAM add the same


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


@torch.no_grad()
def move(tensors: Sequence[Tensor], origin: Sequence[Tensor], delta: Sequence[Tensor]) -> None:
    """Set `tensors` to `origin` + `delta`."""
    for tensor, start, offset in zip(tensors, origin, delta, strict=True):
        torch.add(start, offset, out=tensor)


@torch.no_grad()
def norms(tensors: Sequence[Tensor], ball: str) -> Tensor:
    """Return the L2 norm of each tensor (ball "tensor"), or for each the norm of all together (ball "global")."""
    each = torch.stack([torch.linalg.vector_norm(t) for t in tensors])
    return torch.linalg.vector_norm(each).expand_as(each) if ball == "global" else each


@torch.no_grad()
def clip(delta: Sequence[Tensor], radius: float | Tensor, ball: str) -> None:
    """Scale `delta` in place into its ball; what is inside already stays. `radius` may be one number a tensor."""
    scales = (radius / (norms(delta, ball) + TINY)).clamp(max=1.0)
    for tensor, scale in zip(delta, scales, strict=True):
        tensor.mul_(scale)
