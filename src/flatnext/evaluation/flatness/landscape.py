"""The loss along lines and on a plane through the solution.

Random directions are filter-normalised: Li, Xu, Taylor, Studer and Goldstein, Visualizing the Loss Landscape of Neural
Nets, NeurIPS 2018, arXiv 1712.09913. Each filter of the direction gets the norm of the model's own filter, so that a
model with larger weights does not look flatter for that. A filter is an output channel of a convolution or linear
layer. Biases and batch norm's parameters are not moved along random directions (in the paper's figures neither; in its
code `--xignore biasbn`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from flatnext.errors import InputError
from flatnext.evaluation.flatness.objective import Objective, check_number
from flatnext.methods.perturbation import TINY, move, restored
from flatnext.progress import Progress, silent
from flatnext.runs.evidence import Curve, Surface

RADII = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Radii along random directions, relative to the weights: at 1 a filter is moved by its own norm."""


def loss_curve(
    objective: Objective,
    radii: Sequence[float] = RADII,
    *,
    directions: int = 5,
    seed: int = 0,
    progress: Progress = silent,
) -> Curve:
    """Return the loss along random filter-normalised directions; the module says how they are made.

    `radii` are relative to the weights; negative ones go the other way. Cost: directions * len(radii) + 1 forward
    passes. Raises `InputError` for a bad setting, or a model that has no parameter of two or more dimensions.
    """
    check_number(1, directions=directions)
    generator = torch.Generator().manual_seed(seed)
    draw = partial(filter_normalised, generator=generator)
    return _curve(objective, "random", radii, _filters_norm(objective), draw, directions, progress)


def gradient_curve(objective: Objective, radii: Sequence[float], *, progress: Progress = silent) -> Curve:
    """Return the loss along the gradient of the loss, over all parameters; `radii` are in the units of the weights.

    Cost: 1 forward and backward pass, len(radii) forward passes. `InputError`: the gradient is zero or not finite.
    """
    slope = objective.slope
    length = _norm(slope)
    if not 0 < length < math.inf:
        raise InputError(f"the gradient's norm is {length}: it has no direction to go along")
    direction = list(torch._foreach_div(slope, length))
    return _curve(objective, "gradient", radii, 1.0, lambda theta: direction, 1, progress)


def loss_surface(
    objective: Objective, *, extent: float = 1.0, points: int = 11, seed: int = 0, progress: Progress = silent
) -> Surface:
    """Return the loss on a grid of points x points over two random filter-normalised directions.

    Positions go from -extent to extent, relative to the weights; `points` is odd, so that the middle one is the
    solution. The first direction is that of `loss_curve` with the same seed. Cost: points ** 2 forward passes.
    """
    if points < 3 or points % 2 == 0:
        raise InputError(f"points is {points}: give an odd number of at least 3, so that the solution is one of them")
    if not 0 < extent < math.inf:
        raise InputError(f"extent is {extent}: give a positive number")
    generator = torch.Generator().manual_seed(seed)
    first, second = (filter_normalised(objective.detached(), generator) for _ in range(2))
    half = points // 2
    positions = [extent * (i - half) / half for i in range(points)]
    rows, centre = [], objective.clean
    with restored(objective.parameters) as theta:
        for i, a in enumerate(positions):
            base = torch._foreach_mul(first, a)
            row = []
            for j, b in enumerate(positions):
                row.append(centre if a == b == 0 else _at(objective, theta, torch._foreach_add(base, second, alpha=b)))
                progress(i * points + j + 1, points**2)
            rows.append(tuple(row))
    unit = _filters_norm(objective)
    dot = sum(float((x.double() * y).sum()) for x, y in zip(first, second, strict=True))
    return Surface(
        positions=tuple(positions),
        unit=unit,
        cosine=dot / unit**2,
        centre=centre,
        losses=tuple(rows),
        count=objective.count,
    )


@torch.no_grad()
def filter_normalised(weights: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Draw a Gaussian direction, each filter scaled to the norm of its filter in `weights`; zero for biases and norms.

    It is drawn on the CPU, so that every device gets the same.
    """
    direction = []
    for weight in weights:
        noise = torch.randn(weight.shape, generator=generator).to(weight.device, weight.dtype)
        if weight.ndim <= 1:  # a bias, or a scale of batch norm; drawn all the same, so that others stay as they are
            direction.append(torch.zeros_like(weight))
            continue
        ratio = weight.flatten(1).norm(dim=1) / (noise.flatten(1).norm(dim=1) + TINY)
        direction.append(noise.mul_(ratio.view(-1, *[1] * (weight.ndim - 1))))
    return direction


def _curve(
    objective: Objective,
    name: str,
    radii: Sequence[float],
    unit: float,
    draw: Callable[[list[Tensor]], list[Tensor]],
    directions: int,
    progress: Progress,
) -> Curve:
    if not radii or not all(map(math.isfinite, radii)):
        raise InputError(f"radii are {list(radii)}: give one or more finite numbers")
    losses: list[tuple[float, ...]] = []
    centre = objective.clean
    with restored(objective.parameters) as theta:
        for _ in range(directions):
            direction = draw(theta)
            row: list[float] = []
            for radius in radii:
                row.append(_at(objective, theta, torch._foreach_mul(direction, radius)) if radius else centre)
                progress(len(losses) * len(radii) + len(row), directions * len(radii))
            losses.append(tuple(row))
    columns = list(zip(*losses, strict=True))
    return Curve(
        direction=name,
        radii=tuple(radii),
        unit=unit,
        centre=centre,
        mean=tuple(sum(values) / len(values) for values in columns),
        sd=tuple(map(_sd, columns)) if directions > 1 else None,
        losses=tuple(losses),
        count=objective.count,
    )


def _at(objective: Objective, theta: list[Tensor], delta: Sequence[Tensor]) -> float:
    """Return the loss at theta + delta."""
    move(objective.parameters, list(delta), theta)
    return objective.value()


def _filters_norm(objective: Objective) -> float:
    """Return the norm that every filter-normalised direction has: that of all filters together."""
    norm = _norm([w for w in objective.detached() if w.ndim > 1])
    if not norm:
        raise InputError("the model has no weights of two or more dimensions, so no filter can be moved")
    return norm


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))


def _sd(values: Sequence[float]) -> float:
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan
