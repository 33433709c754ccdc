"""The table of settings that every test of the methods' contract runs over, and the small networks it needs."""

from __future__ import annotations

import functools
import io
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import pytest
import torch
from torch import nn

from flatnext import config
from flatnext.config import Amp, Optimizer, Sgd
from flatnext.config.method import Adversarial, Asam, MomentumAmp, Rmp, Sam
from flatnext.data import Normalization
from flatnext.device import autocast, dtype
from flatnext.methods import bind
from flatnext.processes import ALONE
from flatnext.training import Step, make_optimizer

MEAN, STD = (0.5, 0.4, 0.6), (0.25, 0.2, 0.3)
SEED = 3
METHODS = [
    Sgd(),
    Sgd(),
    Amp(epsilon=0.05),
    Amp(epsilon=1e3, inner_lr=0.3),  # never at the edge
    Amp(epsilon=0.05, inner_lr=0.5, inner_iter=3),
    Amp(epsilon=0.04, ball="global"),
    Amp(epsilon=0.04, inner_lr=2.0, inner_iter=2, ball="global"),
    Amp(epsilon=0.1, only="norm", perturb_every=2),
    Rmp(epsilon=0.05),
    Rmp(epsilon=0.1, ball="global", radius_schedule="warmup"),
    MomentumAmp(epsilon=0.05),
    MomentumAmp(epsilon=0.1, inner_lr=2.0, ball="global", radius_schedule="decay"),
    Sam(rho=0.05),
    Sam(rho=0.1, only="norm"),
    Asam(rho=0.2),
    Asam(rho=0.2, eta=0.1, only="norm", perturb_every=3, radius_schedule="decay"),
    Adversarial(epsilon=0.05),
    Adversarial(epsilon=0.05, inner_lr=0.5, inner_iter=3),
    Adversarial(epsilon=0.3, inner_lr=0.5, inner_iter=2, norm="l2"),
]
# Precision, micro-batches, norm to clip to. Rows of the methods take the two halves in turn, so that each method meets
# all six, and among these is every pair of a precision, a number of micro-batches, and clipped or not.
CONDITIONS = [
    [("fp64", 1, None), ("fp32", 1, 0.1), ("bf16", 3, 0.1)],
    [("fp64", 3, 0.1), ("fp32", 3, None), ("bf16", 1, None)],
]


@dataclass(frozen=True)
class Case:
    """A line of the table."""

    method: config.Method
    precision: str = "fp64"
    grad_accum_steps: int = 1
    clip_norm: float | None = None

    def __str__(self) -> str:
        method = self.method
        own = [f"{f.name}={getattr(method, f.name)}" for f in fields(method) if getattr(method, f.name) != f.default]
        clipped = ["clip"] if self.clip_norm else []
        return "-".join([method.name, *own, self.precision, f"x{self.grad_accum_steps}", *clipped])

    @property
    def optimizer(self) -> Optimizer:
        return Optimizer(learning_rate=0.1, weight_decay=1e-2, decay_all=True, clip_norm=self.clip_norm)

    def but(self, **changes: object) -> Case:
        """Return the case with settings of the method changed."""
        return replace(self, method=replace(self.method, **changes))

    def plain(self) -> Case:
        return replace(self, method=Sgd())

    def settings(self) -> dict[str, object]:
        return asdict(self.method)


TABLE = [Case(method, *condition) for index, method in enumerate(METHODS) for condition in CONDITIONS[index % 2]]


def make_step(model, case, *, optimizer=None, total_steps=25, processes=ALONE):
    optimizer = optimizer or make_optimizer(model, case.optimizer)
    return Step(
        model=model,
        method=bind(
            case.method,
            model,
            optimizer,
            total_steps=total_steps,
            seed=SEED,
            normalization=Normalization(MEAN, STD),
        ),
        autocast=functools.partial(autocast, case.precision, torch.device("cpu")),
        clip_norm=case.clip_norm,
        grad_accum_steps=case.grad_accum_steps,
        processes=processes,
    )


def take(step, batch, number):
    return step(*batch, number, len(batch[1]))


def oracle_weights():
    random = np.random.default_rng(0)
    return [
        random.normal(size=shape) * scale
        for shape, scale in [((7, 12), 0.5), ((7,), 0.5), ((7,), 1), ((7,), 0.5), ((4, 7), 1), ((4,), 0.5)]
    ]


def oracle_batches(steps, sizes=(12,)):
    """Return batches of 2x2 images, normalised, as NumPy arrays; some of the pixels are black or white."""
    random = np.random.default_rng(1)
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    batches = []
    for number in range(steps):
        size = sizes[number % len(sizes)]
        pixels = random.uniform(-0.2, 1.2, size=(size, 3, 2, 2)).clip(0, 1)
        batches.append(((pixels - mean) / std, random.integers(0, 4, size)))
    return batches


def oracle_network(weights, precision):
    """Return the oracle's network in torch."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 4))
    network.to(dtype(precision))
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), weights, strict=True):
            parameter.copy_(torch.from_numpy(value))
    return network


def to_torch(batch, precision):
    x, y = batch
    return torch.from_numpy(x).to(dtype(precision)), torch.from_numpy(y)


def oracle_options(case):
    """Return what the oracle needs beside the method's settings."""
    settings = case.optimizer
    return {
        "lr": settings.learning_rate,
        "momentum": settings.momentum,
        "nesterov": settings.nesterov,
        "weight_decay": settings.weight_decay,
        "clip_norm": settings.clip_norm,
        "seed": SEED,
        "mean": MEAN,
        "std": STD,
        "noise": dtype(case.precision),
    }


def bn_network(precision="fp32"):
    """Return a network with batch norm, grouped convolution and a bias, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 6, 1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, padding=1, groups=2, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(96, 3),
        )
    return network.to(dtype(precision))


def image_batches(count, precision="fp32", size=6):
    """Return batches of normalised 4x4 images."""
    generator = torch.Generator().manual_seed(1)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (MEAN, STD))
    return [
        (
            ((torch.rand(size, 3, 4, 4, generator=generator, dtype=torch.float64) - mean) / std).to(dtype(precision)),
            torch.randint(3, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def bits(tensors):
    return [tensor.detach().clone() for tensor in tensors]


def same_bits(left, right):
    left, right = list(left), list(right)
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


cases = pytest.mark.parametrize("case", TABLE, ids=str)
perturbing = pytest.mark.parametrize("case", [c for c in TABLE if not isinstance(c.method, Sgd)], ids=str)
FULL = 6  # a step at which every row of the table perturbs, whatever its interval and schedule


def passes(method):
    """Return how many passes a step that perturbs takes, as the methods' documentation says."""
    if isinstance(method, (Sgd, MomentumAmp)):
        return 1
    return 1 + getattr(method, "inner_iter", 1)


def started(case, **options):
    """Return a network with batch norm that has taken a step, so that there is momentum, and its `Step`."""
    model = bn_network(case.precision)
    step = make_step(model, case, **options)
    take(step, image_batches(1, case.precision)[0], 0)
    return model, step


def watch(model):
    """Return a list that gets the weights and the images of every forward pass."""
    seen = []
    model.register_forward_pre_hook(lambda module, x: seen.append((bits(module.parameters()), x[0].detach().clone())))
    return seen


def saved(content):
    """Return what comes back from a file."""
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
