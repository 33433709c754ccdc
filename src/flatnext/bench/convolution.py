"""Each form of the grouped 3x3 and the 1x1 convolution: a forward and a backward pass at the shapes of a model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from flatnext import models, ops
from flatnext.bench.plan import Setup
from flatnext.bench.roofline import TYPES
from flatnext.bench.timing import interleave, ratios, seconds, spread
from flatnext.config import Model
from flatnext.device import autocast, keep_memory, place
from flatnext.ops.cuda.grouped import forms, grouped_conv2d
from flatnext.ops.cuda.timing import cuda_seconds
from flatnext.ops.layers import has_common_form, is_pointwise

CLASSES = 10


def layers(model: Model, image_size: int) -> list[tuple[nn.Conv2d, int]]:
    """Return the model's convolutions that have several forms, each with the pixels a side of its input.

    Of those that are alike there is one. They have no values.
    """
    found: dict[str, tuple[nn.Conv2d, int]] = {}

    def keep(layer: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        size = inputs[0].shape[-1]
        found.setdefault(f"{layer} at {size}", (layer, size))

    with torch.device("meta"):
        network = models.build(model, CLASSES).eval()
        several = [module for module in network.modules() if has_common_form(module) or is_pointwise(module)]
        hooks = [module.register_forward_hook(keep) for module in several]
        network(torch.empty(1, 3, image_size, image_size))
    for hook in hooks:
        hook.remove()
    return list(found.values())


def both_passes(convolve: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor, cast: Callable[[], Any]) -> None:
    """Run a convolution forward and backward."""
    with cast():
        y = convolve(x)
    torch.autograd.grad(y, (x, weight), torch.empty_like(y))


def measure_convolution(setup: Setup) -> dict[str, Any]:
    """Return for each of `layers` the seconds of every turn of each form.

    The forms of a grouped convolution are those of `ops.cuda.grouped`, which run on a CPU too. On a CPU both kinds have
    `kernel`, this project's, which falls back to the plain one where it does not fit; elsewhere a 1x1 convolution has
    one form, and is left out.
    """
    keep_memory()  # as a run does: what a fresh tensor costs would hide what a form costs
    measured = []
    for layer, size in layers(setup.plan.model, setup.plan.image_size):
        if setup.device.type != "cpu" and layer.groups == 1:
            continue
        inputs, outputs, kernel, stride = layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.stride[0]
        title = f"{kernel}x{kernel}, {inputs} to {outputs} channels at {size}x{size}, stride {stride}"
        setup.say(f"convolution: {title}")
        samples = take_turns(setup, layer, size)
        content = {
            "spread": {name: spread(times) for name, times in samples.items()},
            "to_plain": {name: spread(ratios(times, samples["plain"])) for name, times in samples.items()},
            "seconds": samples,
        }
        measured.append({"title": title, **content})
    return {"shapes": measured}


def take_turns(setup: Setup, like: nn.Conv2d, size: int) -> dict[str, list[float]]:
    """Return the seconds of every turn of each form on random images.

    On CUDA a turn is a recorded graph, since launching a convolution takes longer than running it.
    """
    plan, device, precision = setup.plan, setup.device, setup.precision
    measure: Callable[..., float] = partial(seconds, device=device)
    if device.type == "cuda":
        measure = partial(cuda_seconds, device)
    layer = copy.deepcopy(like).to_empty(device=device).train()
    layer.reset_parameters()
    place(layer, device, precision, channels_last=True)
    x = torch.randn(plan.batch_size, like.in_channels, size, size, device=device).to(TYPES[precision])
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
    if groups == 1:
        return {"plain": layer, "kernel": partial(ops.pointwise_convolution, layer)}
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        form: partial(grouped_conv2d, weight=weight, stride=stride, groups=groups, form=form)
        for form in forms(x, weight, groups)
    }
    return functions | ({"kernel": partial(ops.grouped_convolution, layer)} if x.device.type == "cpu" else {})
