"""A benchmark from its plan to its result."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from flatnext.bench.convolution import measure_convolution
from flatnext.bench.inference import measure_inference
from flatnext.bench.memory import measure_memory, resident
from flatnext.bench.plan import PARTS, Plan
from flatnext.bench.startup import measure_startup
from flatnext.bench.training import measure_training, summary_of
from flatnext.device import device_name, resolve_device, resolve_precision
from flatnext.errors import InputError
from flatnext.versions import version_of


def run_bench(plan: Plan, *, say: Callable[[str], None] = lambda text: None, command: str = "") -> dict[str, Any]:
    """Measure what `plan` asks for, and return every sample with what follows from it and where it was measured.

    `say` is told how far it is. `InputError`: a device or size that cannot be used.
    """
    device = resolve_device(plan.device)
    precision = resolve_precision(plan.precision, device)
    summary_of(plan)  # the model takes images of this size, or says so now
    if "memory" in plan.parts:
        resident()
    measure: dict[str, Callable[[], dict[str, Any]]] = {
        "training": lambda: measure_training(plan, device, precision, say),
        "inference": lambda: measure_inference(plan, device, precision, say),
        "memory": lambda: measure_memory(plan, device, say),
        "startup": lambda: measure_startup(plan, device, say),
        "convolution": lambda: measure_convolution(plan, device, precision, say),
    }
    before = load()
    parts = {name: measure[name]() for name in PARTS if name in plan.parts}
    return {**facts(device, precision, command), "load": [before, load()], "plan": plan.to_json(), "parts": parts}


def check_writable(path: Path) -> None:
    """Raise `InputError` if a file cannot be written there, before anything is measured."""
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"json is {path}: give the name of a file in a folder that is there and can be written")


def facts(device: torch.device, precision: str, command: str) -> dict[str, Any]:
    """Return what a figure needs beside it to be believed."""
    return {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "flatnext": version_of("flatnext"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "precision": precision,
    }


def load() -> float | None:
    """Return the mean number of running processes over the last minute, where the system tells."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
