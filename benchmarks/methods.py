"""What a step of each method costs relative to plain SGD, side by side in one run.

    python benchmarks/methods.py [--steps 10] [--batch-size 64] [--image-size 32] [--device auto]

Each round takes one step of every method, so that a drifting machine drifts for all. Prints a Markdown table: median,
and the middle half of the rounds, of the ratio to SGD's step of the same round.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import torch

from flatnext import config, models
from flatnext.device import autocast, device_name, place, resolve_device, resolve_precision
from flatnext.methods import BoundMethod
from flatnext.training import Step, make_optimizer

METHODS: list[tuple[str, config.Method]] = [
    ("sgd", config.Sgd()),
    ("momentum-amp", config.MomentumAmp()),
    ("amp", config.Amp()),
    ("amp, ball global", config.Amp(ball="global")),
    ("amp, only norm", config.Amp(only="norm")),
    ("amp, interval 4", config.Amp(interval=4)),
    ("amp, inner_iter 2", config.Amp(inner_iter=2)),
    ("sam", config.Sam()),
    ("asam", config.Asam()),
    ("rmp", config.Rmp()),
    ("adversarial", config.Adversarial()),
]


def make_step(
    method: config.Method, device: torch.device, precision: str, batch_size: int, size: int
) -> Callable[[int], None]:
    """Return a function that takes a step of the given number and waits for the device."""
    torch.manual_seed(0)
    model = models.build(config.Model(), 10)
    place(model, device, precision, channels_last=True)
    optimizer = make_optimizer(model, config.Optimizer(learning_rate=0.001))
    bound = BoundMethod(settings=method, model=model, optimizer=optimizer, total_steps=1000)
    step = Step(model=model, method=bound, autocast=functools.partial(autocast, precision, device))
    images = torch.randn(batch_size, 3, size, size, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch_size,), device=device)

    def take(number: int) -> None:
        float(step(images, labels, number, batch_size).loss)

    return take


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="rounds; a multiple of 4 has whole intervals")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = resolve_device(options.device)
    precision = resolve_precision("auto", device)
    steps = {
        name: make_step(method, device, precision, options.batch_size, options.image_size) for name, method in METHODS
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(-2, options.steps):
        for name, take in steps.items():
            began = time.perf_counter()
            take(number % 4)
            if number >= 0:
                seconds[name].append(time.perf_counter() - began)
    print(
        f"{device_name(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}, {precision}, "
        f"batch {options.batch_size} at {options.image_size}x{options.image_size}, n = {options.steps} rounds\n"
    )
    print("| method | step / SGD's step | middle half |\n|---|---|---|")
    for name, times in seconds.items():
        ratios = [t / plain for t, plain in zip(times, seconds["sgd"], strict=True)]
        if name == "amp, interval 4":  # a period has one dear step: compare sums over periods
            ratios = [sum(times[i : i + 4]) / sum(seconds["sgd"][i : i + 4]) for i in range(0, options.steps - 3, 4)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"| {name} | {middle:.2f} | {low:.2f} to {high:.2f} |")


if __name__ == "__main__":
    main()
