"""Images a second in inference: the usual way, the plain module in this project's precision, and its fast form."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import nn

from flatnext import models
from flatnext.bench.bound import inference_work, measure_machine
from flatnext.bench.child import Child
from flatnext.bench.clock import seconds
from flatnext.bench.plan import Plan
from flatnext.bench.rounds import Turn, ratios, spread, warm_and_interleave
from flatnext.bench.training import report_settings, summary_of
from flatnext.device import autocast, dtype, place
from flatnext.errors import InputError
from flatnext.models.inference import for_inference

USUAL = "eager fp32, contiguous"
SMALL_CALLS = 10  # a turn of a single image is short: this many calls make one


def calls_a_turn(batch_size: int, device: torch.device) -> int:
    """Return how often a turn runs the model forward."""
    return SMALL_CALLS if batch_size == 1 or device.type != "cpu" else 1


def make_plain(plan: Plan, device: torch.device, precision: str) -> nn.Module:
    """Return the plain module, as a GPU evaluates it: on the device, channels-last, with its running statistics."""
    torch.manual_seed(0)
    model = models.build(plan.model, 10).eval()
    place(model, device, precision, channels_last=True)
    return model


def make_turn(
    model: nn.Module, batch_size: int, size: int, device: torch.device, precision: str, *, cast: bool
) -> Turn:
    """Return a function that runs `model` forward on random images, under autocast if `cast`, and gives the seconds."""
    images = torch.randn(batch_size, 3, size, size, device=device, dtype=dtype(precision))
    images = images.to(memory_format=torch.channels_last)
    calls = calls_a_turn(batch_size, device)

    def work() -> None:
        with torch.inference_mode(), autocast(precision if cast else "fp32", device):
            for _ in range(calls):
                model(images)

    return partial(seconds, work, device)


def fast_forms(plan: Plan, plain: nn.Module, precision: str) -> dict[str, nn.Module]:
    """Return the fast form of `plain`, and with precision auto that in int8 as well, if the device has them."""
    forms: dict[str, nn.Module] = {}
    if precision != "fp64":
        forms[precision] = for_inference(plain, precision)
    if plan.precision == "auto":
        with suppress(InputError):  # not on this device
            images = torch.randn(64, 3, plan.image_size, plan.image_size, device=next(plain.parameters()).device)
            forms["int8"] = for_inference(plain, "int8", calibration=images)
    return forms


def measure_inference(plan: Plan, device: torch.device, precision: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Return by batch size the seconds of every turn and what follows: one image, `batch_size`, and twice that."""
    plain = make_plain(plan, device, precision)
    forms = {f"eager {precision}, channels-last": (plain, True)}
    forms |= {f"for_inference, {name}": (model, False) for name, model in fast_forms(plan, plain, precision).items()}
    machine = measure_machine(device, precision)
    samples: dict[int, dict[str, list[float]]] = {}
    with Child("flatnext.bench.report_way", report_settings(plan, device, plan.batch_size)) as child:
        for batch in dict.fromkeys((1, plan.batch_size, 2 * plan.batch_size)):
            say(f"inference: batch {batch}")
            turns: dict[str, Turn] = {USUAL: partial(_ask, child, batch, calls_a_turn(batch, device))}
            for name, (model, cast) in forms.items():
                turns[name] = make_turn(model, batch, plan.image_size, device, precision, cast=cast)
            samples[batch] = warm_and_interleave(turns, plan.rounds)
    machine = machine.best(measure_machine(device, precision))
    batches = {}
    for batch, times in samples.items():
        work = inference_work(summary_of(plan), batch, precision)
        bound = batch / machine.seconds(work.flops, work.traffic)
        content = {"contenders": rates(times, batch, calls_a_turn(batch, device), bound), "seconds": times}
        batches[str(batch)] = {"calls_a_turn": calls_a_turn(batch, device), "bound_images_per_second": bound, **content}
    return {"machine": vars(machine), "batches": batches}


def _ask(child: Child, batch_size: int, calls: int) -> float:
    return child.ask(do="infer", batch_size=batch_size, calls=calls)["seconds"]


def rates(samples: dict[str, list[float]], batch_size: int, calls: int, bound: float) -> dict[str, dict[str, Any]]:
    """Return for each contender what its turns of `calls` calls say; int8 has no share of a bound in floating point."""
    table = {}
    for name, times in samples.items():
        rate = spread([batch_size * calls / time for time in times])
        table[name] = {
            "images_per_second": rate.to_json(),
            "milliseconds_a_call": spread([1000 * time / calls for time in times]).to_json(),
            "times_usual": spread(ratios(samples[USUAL], times)).to_json(),
            "share_of_bound": None if name.endswith("int8") else rate.median / bound,
        }
    return table
