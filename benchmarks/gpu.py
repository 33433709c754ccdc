"""Time training steps on a GPU: recorded or not, each method, each form of the grouped convolution.

    PYTHONPATH=src python benchmarks/gpu.py [--batch-size 128] [--rounds 8] [--compiled] [--json gpu.json]

Contenders take turns of whole periods of steps, so that a machine that drifts drifts for all. One that cannot be made
is reported and left out; once no graph can be recorded any more, no further contender is made. The table gives the time
for 50,000 images as well. The file is written after each part. `benchmarks/gpu.sh` runs this script.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import math
import statistics
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from flatnext.bench.contender import Contender, random_partition
from flatnext.bench.plan import METHODS
from flatnext.bench.timing import interleave
from flatnext.config import Config, Method
from flatnext.device import device_name, resolve_device
from flatnext.errors import InputError
from flatnext.ops.cuda import grouped, timing
from flatnext.training.graph import CudaRecorder

STEPS = 20  # of a turn: whole periods of amp-every-4
SHAPES = [(128, 32, 1), (256, 32, 2), (256, 16, 1), (512, 16, 2), (512, 8, 1)]  # channels, image size, stride
VARIANTS: dict[str, tuple[dict[str, Any], str | None, bool]] = {
    "eager": ({"cuda_graph": False}, "plain", False),
    "graph": ({}, "plain", False),
    "graph, form chosen": ({}, None, False),
    "graph, compiled": ({}, "plain", True),
    "graph, fp32": ({"precision": "fp32"}, "plain", False),
    "graph, contiguous": ({"channels_last": False}, "plain", False),
}


def measure_forms(batch_size: int, device: torch.device) -> list[dict[str, Any]]:
    """Return the microseconds of both passes of each form of each grouped convolution, and its error against fp32."""
    rows = []
    for channels, size, stride in SHAPES:
        label = f"{channels:4d} channels, {size:2d} px, stride {stride}:"
        x = torch.randn(batch_size, channels, size, size, device=device, dtype=torch.bfloat16)
        x = x.contiguous(memory_format=torch.channels_last)
        weight = torch.randn(channels, channels // 32, 3, 3, device=device) / 6
        weight = weight.contiguous(memory_format=torch.channels_last)
        exact = F.conv2d(x.float(), weight.bfloat16().float(), stride=stride, padding=1, groups=32)
        for form in grouped.forms(x, weight, 32):
            try:
                with torch.autocast(device.type, torch.bfloat16):
                    work = partial(grouped.both_passes, x, weight, stride, 32, form)
                    seconds = timing.cuda_seconds(device, work)
                    error = (grouped.grouped_conv2d(x, weight, stride, 32, form).float() - exact).abs().max()
            except Exception as failure:  # Triton's compiler raises many kinds
                print(f"{label} {form:9s} failed: {failure!r:.200}")
                continue
            row: dict[str, Any] = {"channels": channels, "size": size, "stride": stride, "form": form}
            rows.append({**row, "microseconds": seconds * 1e6, "error": float(error / exact.abs().max())})
            print(f"{label} {form:9s} {seconds * 1e6:8.1f} us", flush=True)
    return rows


def make_turn(method: Method, variant: str, batch_size: int, device: torch.device) -> Callable[[], float]:
    """Return a function that takes a turn of steps and returns its seconds, warmed up."""
    settings, form, compiled = VARIANTS[variant]
    common = {"batch_size": batch_size, "learning_rate": 0.001, "epochs": 10_000}
    config = Config(recipe="gpu", method=method).override(common | settings)
    contender = Contender(config, random_partition(8192, 32), device)
    if compiled:
        contender.run.model.compile()

    def turn() -> float:
        with grouped.only(form) if form else contextlib.nullcontext():
            return contender.train(STEPS)

    turn()
    turn()
    return turn


def measure_steps(names: list[tuple[str, str]], options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return the seconds of every turn of the contenders that can be made, and print them in comparison with SGD."""
    turns: dict[str, Callable[[], float]] = {}
    for name, variant in dict.fromkeys([("sgd", "graph"), *names]):
        if not can_record(device):
            print(f"{name}, {variant}: left out: no graph can be recorded any more", flush=True)
            continue
        try:
            turns[f"{name}, {variant}"] = make_turn(METHODS[name], variant, options.batch_size, device)
        except Exception as error:  # the others go on without it
            print(f"{name}, {variant}: failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}", flush=True)
    if not turns:
        return {}
    seconds = interleave(turns, options.rounds)
    turns.clear()
    gc.collect()  # frees the memory of all these runs
    torch.cuda.empty_cache()
    report(seconds, options.batch_size)
    return seconds


def can_record(device: torch.device) -> bool:
    """Return whether a graph can still be recorded: one that fails may leave CUDA unable to record others."""
    try:
        CudaRecorder(device).record(lambda: torch.ones(1, device=device) + 1, [])()
    except (InputError, RuntimeError):
        return False
    return True


def report(seconds: dict[str, list[float]], batch_size: int) -> None:
    """Print a table of the contenders, the fastest first."""
    print("\n| contender | ms a step | middle half | images/s | 50,000 images, s | to SGD |")
    print("|---|---|---|---|---|---|")
    sgd = statistics.median(seconds["sgd, graph"]) if "sgd, graph" in seconds else math.nan
    for name, times in sorted(seconds.items(), key=lambda item: statistics.median(item[1])):
        low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
        rate = batch_size * STEPS / middle
        step = [1000 * t / STEPS for t in (middle, low, high)]
        spread = f"{step[0]:.2f} | {step[1]:.2f} to {step[2]:.2f}"
        print(f"| {name} | {spread} | {rate:,.0f} | {50_000 / rate:.2f} | {middle / sgd:.2f} |", flush=True)


def difference(batch_size: int, device: torch.device, method: str, steps: int = 30) -> float:
    """Return the largest difference in a weight between steps that are replayed and steps that are not."""
    models = []
    for graph in (True, False):
        settings = {"batch_size": batch_size, "precision": "fp32", "learning_rate": 0.01, "cuda_graph": graph}
        config = Config(recipe="gpu", method=METHODS[method]).override(settings)
        contender = Contender(config, random_partition(8192, 32), device)
        with grouped.only("plain"):
            contender.train(steps)
        models.append(contender.run.model)
    pairs = zip(*(model.parameters() for model in models), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--compiled", action="store_true", help="also compiled models, which take minutes to make")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = resolve_device("cuda")
    # Else eager steps would be timed under the name of recorded ones.
    warnings.filterwarnings("error", message="the step cannot be recorded")
    content: dict[str, Any] = {"device": device_name(device), "torch": torch.__version__, "cuda": torch.version.cuda}
    content |= {"batch_size": options.batch_size, "rounds": options.rounds, "steps_a_turn": STEPS}
    print(f"{content['device']}, torch {torch.__version__}, batch {options.batch_size}, n = {options.rounds} turns")

    def keep(title: str, measured: Any) -> None:
        content[title] = measured
        if options.json:
            options.json.write_text(json.dumps(content, indent=1))

    keep("forms", measure_forms(options.batch_size, device))
    differences: dict[str, float | str] = {}
    for name in ("sgd", "amp", "rmp"):
        try:
            differences[name] = difference(options.batch_size, device, name)
        except Exception as error:  # the rest goes on without it
            differences[name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    print(f"weights after 30 steps, replayed against not, fp32: largest difference {differences}\n", flush=True)
    keep("difference", differences)
    variants = [name for name, (_, _, compiled) in VARIANTS.items() if options.compiled or not compiled]
    names = [(name, variant) for name in ("sgd", "amp") for variant in variants]
    keep("variants", measure_steps(names, options, device))
    keep("methods", measure_steps([(name, "graph") for name in METHODS], options, device))


if __name__ == "__main__":
    main()
