"""Images a second in inference: the usual way, the model in this project's precision, and its inference copies."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import nn

from flatnext import models
from flatnext.bench.baseline import settings_of
from flatnext.bench.child import Child
from flatnext.bench.plan import Setup
from flatnext.bench.roofline import inference_work, measure_rates, summary_of
from flatnext.bench.timing import Turn, interleave, ratios, seconds, spread
from flatnext.device import autocast, dtype, place
from flatnext.errors import InputError

USUAL = "eager fp32, contiguous"
SMALL_CALLS = 10  # in a turn of a single image, which is short


def measure_inference(setup: Setup) -> dict[str, Any]:
    """Return by batch size the seconds of every turn and the rates that follow: 1, `batch_size`, and its double."""
    summary = summary_of(setup.plan)
    rates = measure_rates(setup.device, setup.precision)
    samples = take_turns(setup)
    rates = rates.best(measure_rates(setup.device, setup.precision))
    batches = {}
    for batch_size, times in samples.items():
        calls = calls_a_turn(batch_size, setup.device)
        bound = batch_size / rates.seconds(inference_work(summary, batch_size, setup.precision))
        content = {"contenders": results(times, batch_size, calls, bound), "seconds": times}
        batches[str(batch_size)] = {"calls_a_turn": calls, "bound_images_per_second": bound, **content}
    return {"machine": vars(rates), "batches": batches}


def take_turns(setup: Setup) -> dict[int, dict[str, list[float]]]:
    """Return the seconds of every turn by batch size and contender."""
    plan, networks = setup.plan, make_networks(setup)
    samples: dict[int, dict[str, list[float]]] = {}
    with Child("flatnext.bench.baseline", settings_of(setup, plan.batch_size)) as child:
        for batch_size in dict.fromkeys((1, plan.batch_size, 2 * plan.batch_size)):
            setup.say(f"inference: batch {batch_size}")
            turns = {name: make_turn(setup, network, batch_size, name) for name, network in networks.items()}
            usual = partial(_ask, child, batch_size, calls_a_turn(batch_size, setup.device))
            samples[batch_size] = interleave({USUAL: usual, **turns}, plan.rounds, warm_up=True)
    return samples


def make_networks(setup: Setup) -> dict[str, nn.Module]:
    """Return the model, channels-last, and its copy for inference; with precision auto the one in int8 as well."""
    plan, device, precision = setup.plan, setup.device, setup.precision
    torch.manual_seed(0)
    model = models.build(plan.model, 10).eval()
    place(model, device, precision, channels_last=True)
    networks: dict[str, nn.Module] = {f"eager {precision}, channels-last": model}
    if precision != "fp64":
        networks[f"for_inference, {precision}"] = models.for_inference(model, precision)
    if plan.precision == "auto":
        images = torch.randn(64, 3, plan.image_size, plan.image_size, device=device)
        with suppress(InputError):  # not on this device
            networks["for_inference, int8"] = models.for_inference(model, "int8", calibration=images)
    return networks


def make_turn(setup: Setup, network: nn.Module, batch_size: int, name: str) -> Turn:
    """Return a function that runs `network` forward on random images and returns the seconds.

    The model itself, whose name begins with `eager`, runs under autocast.
    """
    device, size = setup.device, setup.plan.image_size
    images = torch.randn(batch_size, 3, size, size, device=device, dtype=dtype(setup.precision))
    images = images.to(memory_format=torch.channels_last)
    calls, precision = calls_a_turn(batch_size, device), setup.precision if name.startswith("eager") else "fp32"

    def work() -> None:
        with torch.inference_mode(), autocast(precision, device):
            for _ in range(calls):
                network(images)

    return partial(seconds, work, device)


def calls_a_turn(batch_size: int, device: torch.device) -> int:
    """Return how often a turn runs the model forward."""
    return SMALL_CALLS if batch_size == 1 or device.type != "cpu" else 1


def _ask(child: Child, batch_size: int, calls: int) -> float:
    return child.ask(do="infer", batch_size=batch_size, calls=calls)["seconds"]


def results(samples: dict[str, list[float]], batch_size: int, calls: int, bound: float) -> dict[str, dict[str, Any]]:
    """Return for each contender the rates of its turns of `calls` calls; `bound`, in images a second, is not int8's."""
    table = {}
    for name, times in samples.items():
        rate = spread([batch_size * calls / time for time in times])
        table[name] = {
            "images_per_second": rate,
            "milliseconds_a_call": spread([1000 * time / calls for time in times]),
            "times_usual": spread(ratios(samples[USUAL], times)),
            "share_of_bound": None if name.endswith("int8") else rate["median"] / bound,
        }
    return table
