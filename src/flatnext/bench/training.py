"""Images a second in training: the baseline, plain SGD of this project, and each of its methods."""

from __future__ import annotations

from functools import partial
from typing import Any

from flatnext.bench.baseline import BASELINE, settings_of
from flatnext.bench.child import Child
from flatnext.bench.contender import Contender, random_partition
from flatnext.bench.plan import Setup, group_rounds, training_configs
from flatnext.bench.roofline import measure_rates, summary_of, training_work
from flatnext.bench.timing import group_sums, interleave, ratios, spread
from flatnext.config import Config

STORED = 8192  # random images at most
EPOCH = 50_000  # images of CIFAR-10, for the estimate of an epoch


def measure_training(setup: Setup) -> dict[str, Any]:
    """Return the seconds of every turn of all contenders, interleaved, and the rates that follow.

    `InputError`: too few rounds for a method that does not perturb in every step, or the model does not take the
    images.
    """
    plan, device = setup.plan, setup.device
    configs = training_configs(plan, device.type)
    groups = {name: group_rounds(interval(config), setup.steps, plan.rounds) for name, config in configs.items()}
    work = training_work(summary_of(plan), plan.batch_size, setup.precision)
    rates = measure_rates(device, setup.precision)
    samples = take_turns(setup, configs)
    rates = rates.best(measure_rates(device, setup.precision))
    least = rates.seconds(work)
    bound = plan.batch_size / least
    bounds = {BASELINE: bound, **{name: bound / config.method.passes for name, config in configs.items()}}
    return {
        "steps_a_turn": setup.steps,
        "machine": vars(rates),
        "work": vars(work),
        "bound_images_per_second": bound,
        "bound_by": "arithmetic" if work.flops / rates.matrix_rate >= least else "memory",
        "contenders": results(samples, plan.batch_size * setup.steps, groups, bounds),
        "seconds": samples,
    }


def take_turns(setup: Setup, configs: dict[str, Config]) -> dict[str, list[float]]:
    """Return the seconds of every turn of the baseline and of a run of each config."""
    plan, steps = setup.plan, setup.steps
    warm_up = 2 if setup.device.type == "cpu" else 20  # a GPU's steps are recorded after some of each kind
    needed = plan.batch_size * (warm_up + plan.rounds * steps)
    batches = max(min(needed, STORED) // plan.batch_size, 1)  # whole ones, as the rates count
    partition = random_partition(batches * plan.batch_size, plan.image_size)
    with Child("flatnext.bench.baseline", settings_of(setup, plan.batch_size)) as child:
        contenders = {name: Contender(config, partition, setup.device) for name, config in configs.items()}
        setup.say("training: warm-up")
        child.ask(do="train", steps=2)
        for contender in contenders.values():
            contender.train(warm_up)
        turns = {BASELINE: lambda: child.ask(do="train", steps=steps)["seconds"]}
        turns |= {name: partial(contender.train, steps) for name, contender in contenders.items()}
        return interleave(turns, plan.rounds, lambda text: setup.say(f"training: {text}"))


def interval(config: Config) -> int:
    """Return every how many steps the config's method perturbs."""
    return getattr(config.method, "perturb_every", 1)


def results(
    samples: dict[str, list[float]], images: int, groups: dict[str, int], bounds: dict[str, float]
) -> dict[str, dict[str, Any]]:
    """Return for each contender the rates of its turns of `images` images.

    `groups` are the rounds that are summed to whole periods of a method, and `bounds` are in images a second.
    """
    table = {}
    for name, times in samples.items():
        group = groups.get(name, 1)
        rate = spread([group * images / total for total in group_sums(times, group)])
        table[name] = {
            "images_per_second": rate,
            "times_report": spread(ratios(samples[BASELINE], times, group)),
            "step_to_sgd": spread(ratios(times, samples["sgd"], group)),
            "share_of_bound": rate["median"] / bounds[name],
            "epoch_seconds_estimated": EPOCH / rate["median"],
        }
    return table
