"""What several processes send, by method, as docs/scaling.md says; its figures follow from the size of the model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import pytest
import torch
from places import REPOSITORY
from torch import Tensor

from flatnext import models
from flatnext.config import recipe
from flatnext.data import Normalization
from flatnext.methods import bind
from flatnext.processes import Processes
from flatnext.training import make_optimizer
from flatnext.training.step import Step

PAGE = (REPOSITORY / "docs" / "scaling.md").read_text()
RATE, IMAGES = 20_000, 64  # images a second in a pass, images of each process
NEAR, FAR = 400e9, 50e9  # bytes a second within a machine of eight, and between machines
MESSAGE, CONTROL = 5e-6, 25e-6  # seconds that a message takes between GPUs, and over TCP


class Counting(Processes):
    """Two processes of which this is the only one: counts the bytes that it would send, and sends nothing."""

    def __init__(self) -> None:
        super().__init__(rank=0, count=2)
        object.__setattr__(self, "sums", [])

    def sum(self, tensors: Iterable[Tensor]) -> None:
        self.sums.append(sum(tensor.numel() * tensor.element_size() for tensor in tensors))


@pytest.mark.parametrize(
    ("settings", "gradients"),
    [
        ({"method": "sgd"}, 1),
        ({"method": "momentum-amp"}, 1),
        ({"method": "amp"}, 2),
        ({"method": "amp", "inner_iter": 3}, 4),
        ({"method": "sam"}, 2),
        ({"method": "asam"}, 2),
        ({"method": "rmp"}, 2),
        ({"method": "adversarial", "inner_iter": 2}, 3),
        ({"method": "amp", "m_sharpness": True}, 1),
        ({"method": "sam", "m_sharpness": True}, 1),
    ],
)
def test_the_gradients_that_a_step_sums(settings, gradients):
    config = recipe("quick").override({"blocks": (1, 1), "stem": 8, "cardinality": 2, **settings})
    model = models.build(config.model, 10, 1)
    optimizer = make_optimizer(model, config.optimizer)
    normalization = Normalization(mean=(0.0,), std=(1.0,))
    method = bind(config.method, model, optimizer, total_steps=10, seed=0, normalization=normalization)
    processes = Counting()
    step = Step(model=model, method=method, autocast=torch.enable_grad, processes=processes)
    model.train()
    for number in range(2):  # the first has no momentum to perturb along
        processes.sums.clear()
        step(torch.rand(8, 1, 8, 8), torch.arange(8), number, 16)
    gradient = 4 * sum(p.numel() for p in model.parameters())
    statistics = 4 * sum(b.numel() for b in model.buffers() if b.is_floating_point())
    assert processes.sums == [*[gradient] * gradients, statistics]


def table(title: str) -> list[list[str]]:
    """Return the rows of the first table below a heading, without its head."""
    section = PAGE.split(f"## {title}", 1)[1]
    lines = [line for line in re.split(r"\n(?=## )", section)[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.fixture(scope="module")
def sizes() -> tuple[float, float]:
    """The bytes of a gradient and of the running statistics of ResNeXt-29."""
    model = models.build(recipe("sgd").model, 10, 3)
    buffers = sum(b.numel() for b in model.buffers() if b.is_floating_point())
    parameters = sum(p.numel() for p in model.parameters())
    assert f"{parameters:,} parameters, and {buffers:,} running statistics" in PAGE
    return 4.0 * parameters, 4.0 * buffers


def seconds(size: float, gpus: int) -> tuple[float, float]:
    """Return how long a sum takes for its bytes, and for its messages."""
    link = NEAR if gpus <= 8 else FAR
    return 2 * (gpus - 1) / gpus * size / link, min(2 * (gpus - 1), 2 * math.log2(gpus)) * MESSAGE


def test_the_bytes_of_the_page(sizes):
    gradient, statistics = sizes
    rows = table("Bytes a step")
    for _methods, passes, synced, synced_bytes, local, local_bytes in rows:
        assert passes == synced
        for count, text in ((synced, synced_bytes), (local, local_bytes)):
            if count.isdecimal():
                assert text == f"{(int(count) * gradient + statistics) / 1e6:.1f}"
    assert [row[1] for row in rows][:3] == ["1", "2", "4"]


def test_the_times_of_the_page(sizes):
    gradient, _ = sizes
    one = IMAGES / RATE
    rows = table("Time, from assumptions that you can change")
    assert [row[0] for row in rows] == ["2", "8", "16", "128", "1,024"]
    for gpus, batch, compute, by_bytes, by_messages, share, control in rows:
        number = int(gpus.replace(",", ""))
        size, latency = seconds(gradient, number)
        assert batch == f"{IMAGES * number:,}"
        assert compute == f"{1e3 * one:.1f}"
        assert by_bytes == f"{1e3 * size:.2f}"
        assert by_messages == f"{1e3 * latency:.2f}"
        assert share == f"{(size + latency) / one:.0%}".replace("%", " %")
        assert control == f"{1e3 * 2 * (number - 1) * CONTROL:.2f}"


def test_the_methods_beside_their_passes(sizes):
    gradient, statistics = sizes
    rows = table("Methods beside their passes")
    for _, passes, local, *shares in rows:
        sums = int(local) if local.isdecimal() else int(passes)
        for number, share in zip((8, 128, 1024), shares, strict=True):
            time = sums * sum(seconds(gradient, number)) + sum(seconds(statistics, number))
            assert share == f"{time / (int(passes) * IMAGES / RATE):.0%}".replace("%", " %")
