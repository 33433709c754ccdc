"""The memory that training takes on a CPU: estimated before the first step, so that the system ends no run for it."""

from __future__ import annotations

import copy
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from flatnext.config import Config
from flatnext.device import autocast, dtype
from flatnext.errors import InputError
from flatnext.training.run_state import RunState

PEAK = 1.6
"""The peak over what a forward pass keeps for the backward pass: gradients on their way, and gaps between tensors.

Measured 1.45 to 1.76 for eight configs of ResNeXt-29 and smaller networks, batches of 8 to 256, 8 to 96 pixels, fp32.
"""

USABLE = 0.9
"""Of the memory that is free; the rest is for evaluation and for others."""

SIZE = 32
"""The trial pass has images of at most so many pixels a side; what is kept grows with their area."""

GIGABYTE = 1e9

LIMITS = {
    "0::": ("/sys/fs/cgroup", "memory.max", "memory.current"),
    ":memory:": ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
}
"""Of control groups, version 2 and 1: how their line in /proc/self/cgroup begins or goes on, their folder and files."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that a run takes: for each image of a pass, and for weights, gradients and what a method copies."""

    an_image: float
    weights: float

    def needed(self, images: int) -> float:
        """Return the bytes at the peak of a pass with so many images."""
        return self.weights + images * self.an_image

    def images(self, free: float) -> int:
        """Return the most images of a pass for which so many bytes are enough."""
        return max(int((free - self.weights) // self.an_image), 0)


def estimate(run: RunState) -> Memory:
    """Return what the run takes, by a forward pass of a copy of its network on few small images."""
    images = run.partition.train.images
    size = min(images.shape[-1], SIZE)
    batch = torch.zeros(4, images.shape[1], size, size, device=run.device, dtype=dtype(run.precision))
    model = copy.deepcopy(run.model).train()
    with autocast(run.precision, run.device):
        kept = (kept_bytes(model, batch) - kept_bytes(model, batch[:2])) / 2
    parameters = sum(p.nbytes for p in run.model.parameters())
    # Weights, gradients, momentum, and what a method may keep of both: a perturbation and the weights before it.
    copies = 5 + (run.config.optimizer.optimizer == "adamw") + bool(run.config.ema)
    return Memory(an_image=PEAK * kept * (images.shape[-1] / size) ** 2, weights=copies * parameters)


def kept_bytes(model: nn.Module, images: Tensor) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, without parameters and each storage once."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no storage is freed and its place taken by another

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(images)
    return sum(kept.values())


def require_memory(run: RunState, free: float | None = None) -> None:
    """Raise `InputError`, with settings that fit, for a run on a CPU that needs more memory than is free.

    `free` bytes, by default what the system says; where it says nothing, nothing is raised.
    """
    free = free_bytes() if free is None else free
    if run.device.type != "cpu" or free is None:
        return
    memory, images = estimate(run), images_of_a_pass(run)
    if memory.needed(images) > USABLE * free:
        raise InputError(_message(run.config, memory, images, free, run.partition.train.images.shape[-1]))


def at_a_time(run: RunState, free: float | None = None) -> int | None:
    """Return how many such runs on a CPU the free memory is enough for, at least one; None where it is not known."""
    free = free_bytes() if free is None else free
    if run.device.type != "cpu" or free is None:
        return None
    return max(int(USABLE * free / estimate(run).needed(images_of_a_pass(run))), 1)


def images_of_a_pass(run: RunState) -> int:
    """Return the number of images that one process works on at once."""
    return -(-run.config.batch_size // (run.processes.count * run.config.grad_accum_steps))


def _message(config: Config, memory: Memory, images: int, free: float, size: int) -> str:
    needed = f"training takes about {memory.needed(images) / GIGABYTE:.1f} GB, and {free / GIGABYTE:.1f} GB are free"
    fit = memory.images(USABLE * free)
    smaller = int(size * math.sqrt(fit / images)) // 8 * 8
    remedies = []
    if fit >= 2:
        remedies.append(
            f"--grad-accum-steps {math.ceil(images * config.grad_accum_steps / fit)} (the same batch in parts)"
        )
        remedies.append(f"--batch-size {config.batch_size * fit // images}")
    if smaller >= 8:
        remedies.append(f"--image-size {smaller}")
    return f"{needed}: {', or '.join(remedies) or 'choose a smaller --model'} would fit"


def free_bytes() -> float | None:
    """Return the memory that this process may still take, as Linux and its control groups say; elsewhere None."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    free = next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
    return None if free is None else min([free, *_group_limits()])


def _group_limits() -> list[float]:
    """Return what is left of the limits of this process's control group and of those around it."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    left = []
    for mark, (root, limit, usage) in LIMITS.items():
        names = [line.partition(mark)[2] for line in lines if mark in line]
        group = Path(root, *(name.strip("/") for name in names))
        for folder in (group, *group.parents):
            if not folder.is_relative_to(root):
                break
            with suppress(OSError, ValueError):  # no limit, or another version of control groups
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                cache = int(stat.get("inactive_file", 0))  # given back when it is needed
                left.append(float(int((folder / limit).read_text()) - int((folder / usage).read_text()) + cache))
    return left
