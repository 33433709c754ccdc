"""The forms of the grouped 3x3 convolution: a forward and a backward pass of each, at every shape in the model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from flatnext.bench.bound import TYPES
from flatnext.bench.clock import seconds
from flatnext.bench.plan import Plan
from flatnext.bench.rounds import ratios, spread, warm_and_interleave
from flatnext.config import Model
from flatnext.device import autocast, place
from flatnext.ops import grouped_convolution
from flatnext.ops.cuda.grouped import forms, grouped_conv2d
from flatnext.ops.cuda.timing import cuda_seconds


def shapes(model: Model, image_size: int) -> list[tuple[int, int, int]]:
    """Return (channels, pixels a side of the input, stride) of the model's grouped convolutions, each once."""
    found = []
    for stage, blocks in enumerate(model.blocks):
        width = model.cardinality * model.bottleneck_width * 2**stage
        if stage:
            found.append((width, image_size // 2 ** (stage - 1), 2))
        if not stage or blocks > 1:
            found.append((width, image_size // 2**stage, 1))
    return found


def both_passes(convolve: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor, cast: Callable[[], Any]) -> None:
    """Run a convolution forward and backward."""
    with cast():
        y = convolve(x)
    torch.autograd.grad(y, (x, weight), torch.empty_like(y))


def measure_convolution(plan: Plan, device: torch.device, precision: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Return for each shape the seconds of every turn of each form.

    The forms are those of `ops.cuda.grouped`, and on a CPU `kernel`, this project's, which calls the plain one where it
    does not fit. On CUDA a turn is a recorded graph, since launching a convolution takes longer than it.
    """
    measure: Callable[..., float] = partial(seconds, device=device)
    if device.type == "cuda":
        measure = partial(cuda_seconds, device)
    measured = []
    for channels, size, stride in shapes(plan.model, plan.image_size):
        say(f"convolution: {channels} channels at {size}x{size}, stride {stride}")
        layer = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=plan.model.cardinality, bias=False)
        place(layer, device, precision, channels_last=True)
        x = torch.randn(plan.batch_size, channels, size, size, device=device).to(TYPES[precision])
        x = x.to(memory_format=torch.channels_last).requires_grad_()
        turns = {
            name: partial(measure, partial(both_passes, work, x, layer.weight, partial(autocast, precision, device)))
            for name, work in works(layer, x).items()
        }
        samples = warm_and_interleave(turns, plan.rounds)
        content = {
            "spread": {name: spread(times).to_json() for name, times in samples.items()},
            "to_plain": {name: spread(ratios(times, samples["plain"])).to_json() for name, times in samples.items()},
            "seconds": samples,
        }
        measured.append({"channels": channels, "size": size, "stride": stride, **content})
    return {"shapes": measured}


def works(layer: nn.Conv2d, x: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the forms in which the layer can be computed on `x`, by name."""
    weight, stride, groups = layer.weight, layer.stride[0], layer.groups
    found: dict[str, Callable[[Tensor], Tensor]] = {
        form: partial(grouped_conv2d, weight=weight, stride=stride, groups=groups, form=form)
        for form in forms(x, weight, groups)
    }
    return found | ({"kernel": partial(grouped_convolution, layer)} if x.device.type == "cpu" else {})
