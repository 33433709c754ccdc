"""Memory: the peak of a few training steps, and what a run keeps from epoch to epoch.

Each figure comes from a fresh process. On a CPU the peak is the most that the process held (its resident set) during
the steps, less what it held before the first: activations, gradients, momentum, and whatever the allocator keeps. The
report's worker processes are not counted. On a GPU it is `torch.cuda.max_memory_allocated`, the model included. The
growth is that of the resident set between the end of epoch 2 and the end of epoch 5 of a whole run on the digits,
with its checkpoints, evaluations and events.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from flatnext import ops
from flatnext.bench import report_way
from flatnext.bench.child import Child, serve
from flatnext.bench.clock import wait
from flatnext.bench.our_way import OurWay, random_partition
from flatnext.bench.plan import Plan, training_configs
from flatnext.bench.training import REPORT, report_settings
from flatnext.config import Config, recipe
from flatnext.errors import InputError
from flatnext.training import Silent, train

STEPS = 2
GPU_STEPS = 5
"""After a first one, in which forms are measured: some as usual, and one that is recorded, which holds all of them."""
EPOCHS = 5
TINY = {"blocks": (1, 1), "cardinality": 2, "stem": 8, "train_images": 400, "validation": 40, "batch_size": 32}


def resident(peak: bool = False) -> int:
    """Return the bytes that this process holds in memory, or the most it has held. `InputError`: the system is mute."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError as error:
        raise InputError("memory is read from /proc, which this system has not: leave memory out of --parts") from error
    name = "VmHWM:" if peak else "VmRSS:"
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def peak_of(take: Callable[[int], object], device: torch.device) -> int:
    """Return the bytes of the peak of a few training steps; the module says how counted."""
    if device.type == "cuda":
        take(1)
        wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        take(GPU_STEPS)
        wait(device)
        return torch.cuda.max_memory_allocated(device)
    before = resident()
    take(STEPS)
    return resident(peak=True) - before


def peak(settings: dict[str, Any]) -> int:
    """Return the peak of the report's way, or of ours if there is a `config`, in this process."""
    device = torch.device(settings["device"])
    if settings["config"] is None:
        with ops.disabled():
            return peak_of(report_way.make(settings).train, device)
    config = Config.from_json(settings["config"])
    partition = random_partition(config.batch_size * STEPS, settings["image_size"])
    return peak_of(OurWay(config, partition, device).train, device)


class Watch(Silent):
    """Notes what the process holds at the end of every epoch."""

    def __init__(self) -> None:
        self.bytes: list[int] = []

    def epoch(self, line: dict[str, Any]) -> None:
        """See `Silent`."""
        self.bytes.append(resident())


def growth(device: str) -> list[int]:
    """Return what this process holds at the end of each epoch of a small run on the digits."""
    config = recipe("quick").override({**TINY, "epochs": EPOCHS})
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder) / "run", device=device, progress=watch)
    return watch.bytes


def measure_memory(plan: Plan, device: torch.device, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the peaks in bytes, at twice the plan's batch size, and the bytes held at the end of each epoch."""
    batch = 2 * plan.batch_size
    common = report_settings(plan, device, batch)
    configs = training_configs(plan)
    peaks: dict[str, int] = {}
    for name, config in {REPORT: None, "sgd": configs["sgd"], "amp": configs["amp"]}.items():
        say(f"memory: {name}")
        content = config and config.override({"batch_size": batch}).to_json()
        with Child("flatnext.bench.memory", {**common, "config": content}) as child:
            peaks[name] = child.ask(what="peak")["bytes"]
    say("memory: growth")
    with Child("flatnext.bench.memory", common) as child:
        held = child.ask(what="growth")["bytes"]
    return {
        "batch_size": batch,
        "steps": GPU_STEPS if device.type == "cuda" else STEPS,
        "peak_bytes": peaks,
        "times_less_than_report": {name: peaks[REPORT] / value for name, value in peaks.items()},
        "epoch_bytes": held,
        "growth_bytes": held[-1] - held[1],
    }


def main() -> None:
    """Do in this process what the parent asks for: `peak` or `growth`."""
    settings = json.loads(sys.argv[1])

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        return {"bytes": peak(settings) if request["what"] == "peak" else growth(settings["device"])}

    serve(handle)


if __name__ == "__main__":
    main()
