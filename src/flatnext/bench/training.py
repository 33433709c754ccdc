"""Images a second in training: the report's way, plain SGD of this project, and each of its methods."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from flatnext import models
from flatnext.bench.bound import measure_machine, passes, training_work
from flatnext.bench.child import Child
from flatnext.bench.our_way import OurWay, random_partition
from flatnext.bench.plan import Plan, group_rounds, training_configs
from flatnext.bench.rounds import in_groups, interleave, ratios, spread
from flatnext.config import Config
from flatnext.models.summary import Summary

REPORT = "report's way"
STORED = 8192  # random images at most
EPOCH = 50_000  # images of CIFAR-10, for the estimate of an epoch


def report_settings(plan: Plan, device: torch.device, batch_size: int) -> dict[str, Any]:
    """Return what the child needs to know that runs the report's way."""
    shape = {"image_size": plan.image_size, "batch_size": batch_size, "device": str(device)}
    return {"model": plan.to_json()["model"], **shape}


def summary_of(plan: Plan) -> Summary:
    """Return the layer table of the plan's model."""
    with torch.device("meta"):
        return models.summarize(models.build(plan.model, 10), plan.image_size)


def measure_training(plan: Plan, device: torch.device, precision: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the seconds of every turn, and what follows from them, of all contenders, interleaved.

    `InputError`: too few rounds for a method with an interval, or the model does not take the images.
    """
    steps = plan.steps_on(device.type)
    configs = training_configs(plan, device.type)
    groups = {name: group_rounds(interval(config), steps, plan.rounds) for name, config in configs.items()}
    work = training_work(summary_of(plan), plan.batch_size, precision)
    machine = measure_machine(device, precision)
    samples = take_turns(plan, configs, device, say)
    machine = machine.best(measure_machine(device, precision))
    least = machine.seconds(work.flops, work.traffic)
    bound = plan.batch_size / least
    bounds = {REPORT: bound, **{name: bound / passes(config.method) for name, config in configs.items()}}
    return {
        "steps_a_turn": steps,
        "machine": vars(machine),
        "work": work.to_json(),
        "bound_images_per_second": bound,
        "bound_by": "arithmetic" if work.flops / machine.matrix_rate >= least else "memory",
        "contenders": contenders(samples, plan.batch_size * steps, groups, bounds),
        "seconds": samples,
    }


def take_turns(
    plan: Plan, configs: dict[str, Config], device: torch.device, say: Callable[[str], None]
) -> dict[str, list[float]]:
    """Return the seconds of every turn of the report's way and of a run of each config."""
    steps = plan.steps_on(device.type)
    warmup = 2 if device.type == "cpu" else 20  # a GPU's steps are recorded after some of each kind
    needed = plan.batch_size * (warmup + plan.rounds * steps)
    partition = random_partition(max(min(needed, STORED), plan.batch_size), plan.image_size)
    with Child("flatnext.bench.report_way", report_settings(plan, device, plan.batch_size)) as child:
        ours = {name: OurWay(config, partition, device) for name, config in configs.items()}
        say("training: warm-up")
        child.ask(do="train", steps=2)
        for way in ours.values():
            way.train(warmup)
        turns = {REPORT: lambda: child.ask(do="train", steps=steps)["seconds"]}
        turns |= {name: partial(way.train, steps) for name, way in ours.items()}
        return interleave(turns, plan.rounds, lambda text: say(f"training: {text}"))


def interval(config: Config) -> int:
    """Return every how many steps the config's method perturbs."""
    return getattr(config.method, "perturb_every", 1)


def contenders(
    samples: dict[str, list[float]], images: int, groups: dict[str, int], bounds: dict[str, float]
) -> dict[str, dict[str, Any]]:
    """Return for each contender what its turns of `images` images say.

    A method with an interval is summed over `groups` rounds, which make whole periods. `bounds` are in images a second.
    """
    table = {}
    for name, times in samples.items():
        group = groups.get(name, 1)
        rate = spread([group * images / total for total in in_groups(times, group)])
        table[name] = {
            "images_per_second": rate.to_json(),
            "times_report": spread(ratios(samples[REPORT], times, group)).to_json(),
            "step_to_sgd": spread(ratios(times, samples["sgd"], group)).to_json(),
            "share_of_bound": rate.median / bounds[name],
            "epoch_seconds_estimated": EPOCH / rate.median,
        }
    return table
