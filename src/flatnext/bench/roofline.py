"""The fastest that a machine could train or infer: its roofline, from two rates measured on it.

A pass takes at least the larger of two times: its arithmetic at the rate of a matrix product, and its memory traffic at
the rate of a copy. The arithmetic is 2 FLOPs a multiply-add of the convolutions and the linear layer, forward, and
three times that in training (one more product for the gradient of the input and one for that of the weights). The
traffic is a simple model. It assumes that everything between two convolutions (batch norm, ReLU, addition, and their
gradients) needs no traffic of its own:

- training: the output of each convolution is written and read once forward; backward it is read twice and its
  gradient written once. That is 5 times its size, in the type of the activations. Each parameter, in 4 bytes (8 in
  double precision), is read forward and backward; its gradient is written and read; the momentum is read and written;
  and the parameter is written: 7 times its size.
- inference: each output is written and read once, each parameter read once, in the type of the activations.

Caches can make a real pass move less than this, so a small model can be faster than the bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from flatnext import models
from flatnext.bench.plan import BenchPlan
from flatnext.bench.timing import seconds
from flatnext.models.summary import Summary

TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}


@dataclass(frozen=True)
class Rates:
    """FLOPs a second in a matrix product, and bytes a second in a copy (those read and those written)."""

    matrix_rate: float
    bandwidth: float

    def best(self, other: Rates) -> Rates:
        """Return the higher of each rate."""
        return Rates(max(self.matrix_rate, other.matrix_rate), max(self.bandwidth, other.bandwidth))

    def seconds(self, work: Work) -> float:
        """Return the least time for this work."""
        return max(work.flops / self.matrix_rate, work.traffic / self.bandwidth)


@dataclass(frozen=True)
class Work:
    """FLOPs and bytes of a pass over a batch."""

    flops: float
    traffic: float


def measure_rates(
    device: torch.device, precision: str, *, side: int | None = None, megabytes: int = 512, repeats: int = 5
) -> Rates:
    """Return the best of `repeats` square products of `side`, and of as many copies of `megabytes` (2**20 bytes).

    By default `side` is 2048 on a CPU; a GPU, which does that in less time than a launch takes, gets 8192.
    """
    dtype = TYPES[precision]
    side = side or (2048 if device.type == "cpu" else 8192)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.mm(left, right)
    multiply = min(seconds(lambda: torch.mm(left, right, out=product), device) for _ in range(repeats))
    source = torch.ones(megabytes * 2**20, dtype=torch.uint8, device=device).view(torch.float32)
    target = torch.empty_like(source).copy_(source)
    copy = min(seconds(lambda: target.copy_(source), device) for _ in range(repeats))
    return Rates(2 * side**3 / multiply, 2 * source.nbytes / copy)


def summary_of(plan: BenchPlan) -> Summary:
    """Return the table of layers of the plan's model. `InputError`: it does not take images of the plan's size."""
    with torch.device("meta"):
        return models.summarize(models.build(plan.model, 10), plan.image_size)


def training_work(summary: Summary, batch_size: int, precision: str) -> Work:
    """Return the least work of one forward and backward pass with a step of plain SGD."""
    activations = _convolution_outputs(summary) * batch_size * TYPES[precision].itemsize
    parameters = summary.parameters * (8 if precision == "fp64" else 4)
    return Work(3 * 2 * summary.multiply_adds * batch_size, 5 * activations + 7 * parameters)


def inference_work(summary: Summary, batch_size: int, precision: str) -> Work:
    """Return the least work of one forward pass."""
    size = TYPES[precision].itemsize
    outputs = _convolution_outputs(summary) * batch_size
    return Work(2 * summary.multiply_adds * batch_size, (2 * outputs + summary.parameters) * size)


def _convolution_outputs(summary: Summary) -> int:
    return sum(math.prod(layer.shape) for layer in summary.layers if layer.name.startswith("Conv2d"))
