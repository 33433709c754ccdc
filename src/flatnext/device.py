"""Where tensors live, and in which precision the network runs."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import platform
import time
from collections.abc import Iterator

import torch
from torch import nn

from flatnext.cpu import processor_facts
from flatnext.errors import InputError
from flatnext.runs.records import Machine

PROBE, PROBES = 512, 6  # rows of the matrices that are multiplied to choose a precision, and how often

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h

ELSEWHERE = {"gpu": "cuda", "metal": "mps", "apple": "mps", "intel": "xpu"}
"""Devices by the names that other libraries have for them."""


def resolve_device(name: str) -> torch.device:
    """Return the device of a name such as `cpu`, `cuda`, `cuda:1`, `mps`; `auto` is CUDA's GPU, or else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps", "xpu"):
            raise RuntimeError(f"no training on {device.type}")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        meant = f"cuda:{name}" if name.isdecimal() else ELSEWHERE.get(name.lower())
        reason = f"did you mean {meant}?" if meant else f"{str(error).splitlines()[0]}"
        remedy = "; several GPUs: torchrun --nproc-per-node N -m flatnext train" if "," in name else ""
        raise InputError(f"device {name!r} cannot be used ({reason}): try --device auto, or cpu{remedy}") from error
    return device


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return `precision`, or for `auto` the faster of bf16 and fp32 on this device.

    bf16 is faster on GPUs since Ampere, and on most CPUs that multiply it; on others it is emulated and slower.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    return "bf16" if device.type == "cpu" and cpu_has_bf16() and cpu_is_faster_in_bf16() else "fp32"


def cpu_has_bf16() -> bool:
    """Return whether this CPU multiplies bf16 in hardware (AVX-512 BF16 or AMX), as Linux reports it."""
    return "avx512_bf16" in processor_facts() or "amx_bf16" in processor_facts()


@functools.cache
def cpu_is_faster_in_bf16() -> bool:
    """Return whether a product of matrices takes less time in bf16 than in float32, as measured here in some 30 ms.

    Not every CPU with the instructions is: an Intel Xeon whose virtual machine hides AMX does half as much in bf16, an
    AMD EPYC with AVX-512 BF16 three times as much.
    """
    seconds = {torch.bfloat16: math.inf, torch.float32: math.inf}
    factors = {dtype: torch.ones(PROBE, PROBE, dtype=dtype, device="cpu") for dtype in seconds}
    with torch.autocast("cpu", enabled=False):
        for _ in range(PROBES):
            for dtype, factor in factors.items():  # in turns: other work may come and go
                start = time.perf_counter()
                torch.mm(factor, factor)
                seconds[dtype] = min(seconds[dtype], time.perf_counter() - start)
    return seconds[torch.bfloat16] < seconds[torch.float32]


def keep_memory() -> None:
    """Let this process keep the memory that it frees, for the next step to use (glibc; elsewhere nothing happens).

    A training step on a CPU allocates and frees activations of tens of megabytes. By default glibc takes each from the
    system and gives it back, and a fifth of the time goes into page faults. From here on the process's memory stays at
    its peak.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        # Older ones refuse a threshold above 32 MiB. Without any, the other two would fix it at its first 128 KiB.
        if any(mallopt(M_MMAP_THRESHOLD, value) for value in (2**30, 2**25)):
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
            mallopt(M_TOP_PAD, 2**28)


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let torch compute with so many threads within the block; None: with as many as it has."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def dtype(precision: str) -> torch.dtype:
    """Return the type of weights and inputs; under bf16 they stay float32, and autocast chooses what to narrow."""
    return torch.float64 if precision == "fp64" else torch.float32


def place(model: nn.Module, device: torch.device, precision: str, *, channels_last: bool) -> None:
    """Move a model to the device, in the type and memory layout in which it is to run."""
    model.to(device, dtype(precision))
    keep_digits(precision)
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it


def keep_digits(precision: str) -> None:
    """Let convolutions in fp32 have all its digits: by default a GPU since Ampere rounds their inputs to TF32."""
    if precision == "fp32":
        torch.backends.cudnn.allow_tf32 = False


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return the context in which the network runs forward."""
    if precision != "bf16":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def device_name(device: torch.device) -> str:
    """Return the name of the chip, such as `NVIDIA H200` or `AMD EPYC`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = processor_facts().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine(device: torch.device) -> Machine:
    """Return what this process computes on."""
    return Machine(device_name=device_name(device), torch=torch.__version__, threads=torch.get_num_threads())
