"""Start-up: the time that commands take before they do anything, and before the first training step is done."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from flatnext.bench.plan import Setup
from flatnext.bench.timing import Turn, interleave, spread
from flatnext.errors import InputError

# The command itself, with a progress display that ends the process when the loop first asks whether to show a step. It
# prints the time of the same clock that the parent read before it started the process.
FIRST_STEP = """
import os, sys, time, torch
from flatnext import progress

class First(progress.Task):
    def due(self):
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        print("first step", time.time(), flush=True)
        os._exit(0)

progress.Task = First
progress.ConsoleDisplay = progress.Display
from flatnext.cli import main
sys.exit(main(sys.argv[1:]))
"""


def run_command(*arguments: str) -> str:
    """Run Python with these arguments and return its standard output. `InputError`: it failed."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise InputError(f"start-up: a command failed ({last}): leave startup out of --parts")
    return done.stdout


def whole(*arguments: str) -> float:
    """Return the seconds from the start of a command to its end."""
    start = time.perf_counter()
    run_command(*arguments)
    return time.perf_counter() - start


def to_first_step(dataset: str, data_dir: str, device: str) -> float:
    """Return the seconds from the start of `flatnext train` to the end of its first step, in a new run folder."""
    which = ["--recipe", "quick"] if dataset == "digits" else ["--recipe", "sgd", "--data-dir", data_dir]
    with tempfile.TemporaryDirectory() as folder:
        flags = [*which, "--output", str(Path(folder) / "run"), "--no-download", "--device", device]
        start = time.time()
        output = run_command("-c", FIRST_STEP, "train", *flags)
    return float(output.split()[-1]) - start


def dataset_here(data_dir: str) -> str:
    """Return `cifar10` if its files lie in the folder in either published layout, or else `digits`."""
    names = ("cifar-10-batches-py", "cifar-10-batches-bin")
    return "cifar10" if any((Path(data_dir) / name).is_dir() for name in names) else "digits"


def measure_startup(setup: Setup) -> dict[str, Any]:
    """Return the seconds of every start of each command, interleaved, after one start of each that fills the caches."""
    plan, device = setup.plan, str(setup.device)
    dataset = dataset_here(plan.data_dir)
    turns: dict[str, Turn] = {
        "python -c pass": partial(whole, "-c", "pass"),
        "import flatnext": partial(whole, "-c", "import flatnext"),
        "flatnext --help": partial(whole, "-m", "flatnext", "--help"),
        "import torch": partial(whole, "-c", "import torch"),
        f"flatnext train, to the first step ({dataset})": partial(to_first_step, dataset, plan.data_dir, device),
    }
    samples = interleave(turns, plan.rounds, lambda text: setup.say(f"start-up: {text}"), warm_up=True)
    return {"dataset": dataset, "spread": {n: spread(s) for n, s in samples.items()}, "seconds": samples}
