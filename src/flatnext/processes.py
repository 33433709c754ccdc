"""One process or many: who this one is, and what all of them work out together.

`torchrun --nproc-per-node N -m flatnext train ...` starts N processes; each takes its share of every batch. They talk
by NCCL on GPUs and gloo on CPUs. With one process everything here is the identity.
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from flatnext.errors import InputError
from flatnext.launch import address, attempt, local_rank, rank_and_count

T = TypeVar("T")

TIMEOUT_SECONDS = 1800.0
"""How long a process waits for the others; `FLATNEXT_TIMEOUT` in the environment says another number.

The first one may be fetching a data set meanwhile.
"""


@dataclass(frozen=True)
class Processes:
    """This process's number (from 0) and how many there are. `control` is a group for small messages between CPUs."""

    rank: int = 0
    count: int = 1
    control: Any = None

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, items: Tensor) -> Tensor:
        """Return this process's part of a batch: every `count`-th row, beginning with its rank."""
        return items[self.rank :: self.count]

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Replace floating-point tensors by their sums over the processes, in place, in one message."""
        group = list(tensors)
        if self.count == 1 or not group:
            return
        flat = torch.cat([t.reshape(-1) for t in group])
        with _answered():
            dist.all_reduce(flat)
        for tensor, part in zip(group, flat.split([t.numel() for t in group]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace floating-point tensors by their means over the processes, in place."""
        group = list(tensors)
        if self.count > 1:
            self.sum(group)
            for tensor in group:
                tensor.div_(self.count)

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Return for each flag whether it is set in any process. All processes must call it."""
        if self.count == 1:
            return list(flags)
        together = torch.tensor(flags, dtype=torch.int32)
        with _answered():
            dist.all_reduce(together, dist.ReduceOp.MAX, group=self.control)
        return together.bool().tolist()

    def first_of(self, step: int) -> int:
        """Return the smallest step that a process gives, -1 standing for none. All processes must call it."""
        if self.count == 1:
            return step
        none = torch.iinfo(torch.int64).max
        together = torch.tensor(none if step < 0 else step)
        with _answered():
            dist.all_reduce(together, dist.ReduceOp.MIN, group=self.control)
        return -1 if int(together) == none else int(together)

    def on_first(self, function: Callable[[], T]) -> T:
        """Call `function` in the first process alone; all return its result, or raise the `InputError` it raised."""
        if self.count == 1:
            return function()
        message: list[Any] = [None, None]
        if self.first:
            try:
                message[0] = function()
            except InputError as error:
                message[1] = error
        with _answered():
            dist.broadcast_object_list(message, src=0, group=self.control)
        if message[1] is not None:
            raise message[1]
        return message[0]

    def first_then_others(self, function: Callable[[], T]) -> T:
        """Call `function` in the first process, then in the others: the first fetches what the others then find."""
        kept: list[T] = []
        self.on_first(lambda: kept.append(function()))
        return kept[0] if self.first else function()


ALONE = Processes()


def _timeout() -> timedelta:
    text = os.environ.get("FLATNEXT_TIMEOUT") or TIMEOUT_SECONDS
    try:
        return timedelta(seconds=max(float(text), 1.0))
    except (ValueError, OverflowError):
        raise InputError(f"FLATNEXT_TIMEOUT is {text!r} in the environment: give seconds, or unset it") from None


@contextmanager
def _answered() -> Iterator[None]:
    """Raise `InputError` if another process does not answer within the block."""
    try:
        yield
    except RuntimeError as error:  # of gloo and NCCL, which have no kind of their own for it
        if not re.search("time[d ]*out", str(error), re.IGNORECASE):
            raise
        raise InputError(
            f"another process has not answered for {_timeout().total_seconds():.0f} seconds: see whether it stands "
            "still, or set FLATNEXT_TIMEOUT to more seconds; flatnext train --resume goes on"
        ) from error


@contextmanager
def join_processes(device: str) -> Iterator[tuple[Processes, str]]:
    """Join the processes that torchrun has started; yield them and the device of this one.

    Without torchrun it is one process, on `device`. At the end everything that may still hold a communicator is
    collected before the group is left: otherwise gloo's threads can abort a process that has done its work.
    """
    rank, count = rank_and_count()
    if dist.is_initialized():  # a program with a group of its own, which is left as it is
        together = dist.get_world_size() > 1
        control = dist.new_group(backend="gloo") if together else None
        yield Processes(dist.get_rank(), dist.get_world_size(), control), device
        return
    if count == 1:
        yield ALONE, device
        return
    if device.startswith("cuda:"):
        raise InputError(f"device {device} would be that of all processes: give --device cuda")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        device = _own_gpu()
    _join(rank, count, device)
    try:
        yield Processes(rank, count, dist.new_group(backend="gloo", timeout=_timeout())), device
        with _answered():
            dist.barrier()
    finally:
        gc.collect()
        dist.destroy_process_group()


def _own_gpu() -> str:
    """Return the GPU of this process's number, from now on the one in use. `InputError`: a process here has none.

    All processes of the machine raise it, also those that have one: the first alone speaks.
    """
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE") or local_rank() + 1), torch.cuda.device_count()
    if gpus < here:
        fewer = f"--nproc-per-node {gpus}, or " if gpus else ""
        raise InputError(
            f"device cuda is a GPU for each process, and {here} here have {gpus}: give {fewer}--device cpu"
        )
    device = f"cuda:{local_rank()}"
    torch.cuda.set_device(device)
    return device


def _join(rank: int, count: int, device: str) -> None:
    """Meet the other processes, or raise `InputError`."""
    backend = "nccl" if device.startswith("cuda") else "gloo"
    try:
        # After a restart the store still has the addresses of the processes that died: each attempt has its own corner.
        store = dist.PrefixStore(f"flatnext-{attempt()}", next(rendezvous("env://"))[0])
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_timeout())
    except (RuntimeError, ValueError) as error:  # among them those of torch.distributed
        reason = str(error).splitlines()[0]
        raise InputError(
            f"process {rank} of {count} cannot meet the others at {address()} ({reason}): start all with torchrun, or "
            "unset WORLD_SIZE to train in one process"
        ) from error
