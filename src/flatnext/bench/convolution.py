"""The forms of the grouped 3x3 convolution: a forward and a backward pass of each, at every shape in the model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from flatnext.bench.plan import Setup
from flatnext.bench.roofline import TYPES
from flatnext.bench.timing import interleave, ratios, seconds, spread
from flatnext.config import Model
from flatnext.device import autocast, place
from flatnext.ops import grouped_convolution
from flatnext.ops.cuda.grouped import forms, grouped_conv2d
from flatnext.ops.cuda.timing import cuda_seconds


def shapes(model: Model, image_size: int) -> list[tuple[int, int, int]]:
    """Return (channels, pixels a side of the input, stride) of the model's grouped convolutions, each once."""
    distinct = []
    for stage, blocks in enumerate(model.blocks):
        width = model.cardinality * model.bottleneck_width * 2**stage
        if stage:
            distinct.append((width, image_size // 2 ** (stage - 1), 2))
        if not stage or blocks > 1:
            distinct.append((width, image_size // 2**stage, 1))
    return distinct


def both_passes(convolve: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor, cast: Callable[[], Any]) -> None:
    """Run a convolution forward and backward."""
    with cast():
        y = convolve(x)
    torch.autograd.grad(y, (x, weight), torch.empty_like(y))


def measure_convolution(setup: Setup) -> dict[str, Any]:
    """Return for each shape the seconds of every turn of each form.

    The forms are those of `ops.cuda.grouped`, which run on a CPU too, and on a CPU `kernel`, this project's, which
    falls back to the plain one where it does not fit.
    """
    measured = []
    for channels, size, stride in shapes(setup.plan.model, setup.plan.image_size):
        setup.say(f"convolution: {channels} channels at {size}x{size}, stride {stride}")
        samples = take_turns(setup, channels, size, stride)
        content = {
            "spread": {name: spread(times) for name, times in samples.items()},
            "to_plain": {name: spread(ratios(times, samples["plain"])) for name, times in samples.items()},
            "seconds": samples,
        }
        measured.append({"channels": channels, "size": size, "stride": stride, **content})
    return {"shapes": measured}


def take_turns(setup: Setup, channels: int, size: int, stride: int) -> dict[str, list[float]]:
    """Return the seconds of every turn of each form on random images.

    On CUDA a turn is a recorded graph, since launching a convolution takes longer than running it.
    """
    plan, device, precision = setup.plan, setup.device, setup.precision
    measure: Callable[..., float] = partial(seconds, device=device)
    if device.type == "cuda":
        measure = partial(cuda_seconds, device)
    layer = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=plan.model.cardinality, bias=False)
    place(layer, device, precision, channels_last=True)
    x = torch.randn(plan.batch_size, channels, size, size, device=device).to(TYPES[precision])
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    cast = partial(autocast, precision, device)
    turns = {
        name: partial(measure, partial(both_passes, convolve, x, layer.weight, cast))
        for name, convolve in convolutions(layer, x).items()
    }
    return interleave(turns, plan.rounds, warm_up=True)


def convolutions(layer: nn.Conv2d, x: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the forms in which the layer can be computed on `x`, by name."""
    weight, stride, groups = layer.weight, layer.stride[0], layer.groups
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        form: partial(grouped_conv2d, weight=weight, stride=stride, groups=groups, form=form)
        for form in forms(x, weight, groups)
    }
    return functions | ({"kernel": partial(grouped_convolution, layer)} if x.device.type == "cpu" else {})
