"""Memory: the peak of a few training steps, and what a run keeps from epoch to epoch.

Each figure comes from a fresh process. On a CPU the peak is the most that the process held (its resident set) during
the steps, less what it held before the first: activations, gradients, momentum, and whatever the allocator keeps. The
baseline's worker processes are not counted. On a GPU it is `torch.cuda.max_memory_allocated`, the model included. The
growth is that of the resident set between the end of epoch 2 and the end of epoch 5 of a whole run on the digits,
with its checkpoints, evaluations and events.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from flatnext import ops
from flatnext.bench import baseline
from flatnext.bench.baseline import BASELINE, settings_of
from flatnext.bench.child import Child, serve
from flatnext.bench.contender import Contender, random_partition
from flatnext.bench.plan import Setup, training_configs
from flatnext.bench.timing import synchronize
from flatnext.config import Config, recipe
from flatnext.errors import InputError
from flatnext.progress import Display
from flatnext.training import train

STEPS = 2
GPU_STEPS = 5  # after a first one, in which forms are measured: some as usual, and one that is recorded as a graph
EPOCHS = 5
TINY = {"blocks": (1, 1), "cardinality": 2, "stem": 8, "train_images": 400, "validation": 40, "batch_size": 32}


def resident(peak: bool = False) -> int:
    """Return the bytes that this process holds in memory, or the most it has held. `InputError`: there is no /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError as error:
        raise InputError("memory is read from /proc, which is missing here: leave memory out of --parts") from error
    name = "VmHWM:" if peak else "VmRSS:"
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def peak_of(take: Callable[[int], object], device: torch.device) -> int:
    """Return the peak of a few training steps in bytes, as the module counts it."""
    if device.type == "cuda":
        take(1)
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        take(GPU_STEPS)
        synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):  # else it is the peak since the process began
        Path("/proc/self/clear_refs").write_text("5")
    before = resident()
    take(STEPS)
    return resident(peak=True) - before


def peak(settings: dict[str, Any]) -> int:
    """Return the peak of the baseline, or of a contender with the `config` of the settings, in this process."""
    device = torch.device(settings["device"])
    if settings["config"] is None:
        with ops.disabled():
            return peak_of(baseline.make(settings).train, device)
    config = Config.from_json(settings["config"])
    partition = random_partition(config.batch_size * STEPS, settings["image_size"])
    return peak_of(Contender(config, partition, device).train, device)


class Watch(Display):
    """Notes what the process holds at the end of every epoch, when its line is shown."""

    def __init__(self) -> None:
        self.bytes: list[int] = []

    def say(self, text: str) -> None:
        """See `Display`."""
        if ": epoch " in text:
            self.bytes.append(resident())


def growth(device: str) -> list[int]:
    """Return the bytes that this process holds at the end of each epoch of a small run on the digits."""
    config = recipe("quick").override({**TINY, "epochs": EPOCHS})
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder) / "run", device=device, display=watch)
    return watch.bytes


def measure_memory(setup: Setup) -> dict[str, Any]:
    """Return the peaks in bytes, at twice the plan's batch size, and the bytes held at the end of each epoch."""
    batch_size = 2 * setup.plan.batch_size
    common = settings_of(setup, batch_size)
    configs = training_configs(replace(setup.plan, methods=("amp",), recipes=()))  # whatever else was timed
    peaks: dict[str, int] = {}
    for name, config in {BASELINE: None, "sgd": configs["sgd"], "amp": configs["amp"]}.items():
        setup.say(f"memory: {name}")
        content = config and config.override({"batch_size": batch_size}).to_json()
        with Child("flatnext.bench.memory", {**common, "config": content}) as child:
            peaks[name] = child.ask(what="peak")["bytes"]
    setup.say("memory: growth")
    with Child("flatnext.bench.memory", common) as child:
        epoch_bytes = child.ask(what="growth")["bytes"]
    return {
        "batch_size": batch_size,
        "steps": GPU_STEPS if setup.device.type == "cuda" else STEPS,
        "peak_bytes": peaks,
        "times_less_than_report": {name: peaks[BASELINE] / value for name, value in peaks.items()},
        "epoch_bytes": epoch_bytes,
        "growth_bytes": epoch_bytes[-1] - epoch_bytes[1],
    }


def main() -> None:
    """Answer the requests of the parent process, `peak` or `growth`, with bytes."""
    settings = json.loads(sys.argv[1])

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        return {"bytes": peak(settings) if request["what"] == "peak" else growth(settings["device"])}

    serve(handle)


if __name__ == "__main__":
    main()
