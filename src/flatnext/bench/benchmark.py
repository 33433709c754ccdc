"""A benchmark from its plan to its result."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flatnext.bench.convolution import measure_convolution
from flatnext.bench.inference import measure_inference
from flatnext.bench.memory import measure_memory, resident
from flatnext.bench.plan import BenchPlan, Setup
from flatnext.bench.roofline import summary_of
from flatnext.bench.startup import measure_startup
from flatnext.bench.training import measure_training
from flatnext.device import machine, resolve_device, resolve_precision
from flatnext.errors import InputError
from flatnext.schema import dump
from flatnext.versions import commit, version_of

MEASURES: dict[str, Callable[[Setup], dict[str, Any]]] = {
    "training": measure_training,
    "inference": measure_inference,
    "memory": measure_memory,
    "startup": measure_startup,
    "convolution": measure_convolution,
}


def run_bench(plan: BenchPlan, *, say: Callable[[str], None] = lambda text: None, command: str = "") -> dict[str, Any]:
    """Measure the parts of `plan`; return all samples, the figures that follow, and where they were measured.

    `say` shows how far it is. `InputError`: a device or size that cannot be used.
    """
    device = resolve_device(plan.device)
    setup = Setup(plan=plan, device=device, precision=resolve_precision(plan.precision, device), say=say)
    summary_of(plan)  # fails now if the model does not take images of this size
    if "memory" in plan.parts:
        resident()
    facts = {  # before anything is measured: the code may be edited meanwhile
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "flatnext": version_of("flatnext"),
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        **vars(machine(device)),
        "precision": setup.precision,
    }
    load_before = load()
    parts = {name: measure(setup) for name, measure in MEASURES.items() if name in plan.parts}
    return {**facts, "load": [load_before, load()], "plan": dump(plan), "parts": parts}


def check_writable(path: Path) -> None:
    """Raise `InputError` if a file cannot be written there, before anything is measured."""
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"json is {path}: give the name of a file in a folder that exists and can be written")


def load() -> float | None:
    """Return the mean number of running processes over the last minute, or None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
