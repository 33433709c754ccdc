"""The least work of a pass, counted beside a forward pass, and the time that it takes at given rates."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from flatnext import models
from flatnext.bench.plan import METHODS
from flatnext.bench.roofline import Rates, Work, inference_work, measure_rates, training_work
from flatnext.config import Model
from flatnext.data.normalization import CIFAR10
from flatnext.methods import bind

TINY = Model(blocks=(1, 1), cardinality=2, stem=8)


def test_work_counts_what_a_forward_pass_shows():
    model = models.build(TINY, 10)
    summary = models.summarize(model, 8)
    outputs, flops = [], []

    def note(module, inputs, output):
        if isinstance(module, nn.Conv2d):
            outputs.append(output.numel())
        flops.append(2 * output.numel() * module.weight[0].numel())

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(note)
    model.eval()(torch.zeros(6, 3, 8, 8))
    parameters = sum(p.numel() for p in model.parameters())
    for precision, size, kept in (("bf16", 2, 4), ("fp32", 4, 4), ("fp64", 8, 8)):
        work = training_work(summary, 6, precision)
        assert work.flops == 3 * sum(flops)
        assert work.traffic == 5 * size * sum(outputs) + 7 * kept * parameters
        work = inference_work(summary, 6, precision)
        assert work.flops == sum(flops)
        assert work.traffic == size * (2 * sum(outputs) + parameters)


def test_the_bound_is_the_larger_time():
    rates = Rates(matrix_rate=10.0, bandwidth=2.0)
    assert rates.seconds(Work(flops=40, traffic=6)) == 4
    assert rates.seconds(Work(flops=40, traffic=12)) == 6
    assert rates.best(Rates(5.0, 3.0)) == Rates(10.0, 3.0)


@pytest.mark.parametrize("precision", ["bf16", "fp32", "fp64"])
def test_rates_are_measured(precision):
    rates = measure_rates(torch.device("cpu"), precision, side=32, megabytes=1, repeats=2)
    assert rates.matrix_rate > 0
    assert math.isfinite(rates.bandwidth)


@pytest.mark.parametrize("name", METHODS)
def test_passes_are_those_that_the_rule_makes(name):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2), nn.LayerNorm(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    method = bind(METHODS[name], model, optimizer, total_steps=9, normalization=CIFAR10)
    images, batches, number = torch.rand(2, 3, 2, 2), 0.0, 0

    def closure():
        nonlocal batches, number
        batches += method.share(step, number)
        number += 1
        optimizer.zero_grad()
        model(images).sum().backward()

    for step in range(4):
        number = 0
        method(closure, images, step, divides=True)
        optimizer.step()
    assert batches / 4 == METHODS[name].passes
