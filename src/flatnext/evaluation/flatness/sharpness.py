"""How far the loss rises inside a ball around the weights, by the ascent of a method or by a stronger one.

Each is a lower bound of the largest loss in the ball: an ascent may stop short of it. AMP's ascent takes a step of the
gradient's own length, so that near a minimum it may stay far inside the ball; SAM's one step, and the projected
ascent, go to the edge. A comparison of models with weights of different size needs ASAM's, whose ball is relative to
the weights: batch norm makes a filter's scale meaningless (arXiv 1703.04933).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from flatnext.evaluation.flatness.objective import Objective, check_number
from flatnext.methods import amp, asam, sam
from flatnext.methods.perturbation import check, clipped, factors, move, norms, restored, scaled
from flatnext.progress import Progress, silent
from flatnext.runs.evidence import Sharpness


def amp_sharpness(
    objective: Objective,
    radii: Sequence[float] = (0.5,),
    *,
    inner_lr: float = 1.0,
    inner_iter: int = 1,
    ball: Literal["tensor", "global"] = "tensor",
    progress: Progress = silent,
) -> tuple[Sharpness, ...]:
    """Return the sharpness by AMP's own ascent (`flatnext.methods.amp`) at each epsilon of `radii`.

    Cost: 1 forward and backward pass, which all measures share; for each radius inner_iter forward passes, and
    inner_iter - 1 backward ones.
    """
    rule = partial(amp, inner_lr=inner_lr, inner_iter=inner_iter, ball=ball)
    climbs: list[_Climb] = [(r, partial(_by_rule, rule=partial(rule, epsilon=r), passes=inner_iter)) for r in radii]
    return _measure(objective, climbs, progress, kind="amp", ball=ball, steps=inner_iter)


def sam_sharpness(
    objective: Objective, radii: Sequence[float] = (0.05,), *, progress: Progress = silent
) -> tuple[Sharpness, ...]:
    """Return the sharpness by SAM's step of length rho (`flatnext.methods.sam`) at each rho of `radii`.

    Cost: 1 forward and backward pass, which all measures share; 1 forward pass for each radius.
    """
    climbs: list[_Climb] = [(r, partial(_by_rule, rule=partial(sam, rho=r), passes=1)) for r in radii]
    return _measure(objective, climbs, progress, kind="sam", ball="global", steps=1)


def asam_sharpness(
    objective: Objective, radii: Sequence[float] = (0.5,), *, eta: float = 0.01, progress: Progress = silent
) -> tuple[Sharpness, ...]:
    """Return the sharpness by ASAM's step (`flatnext.methods.asam`) at each rho of `radii`; cost as for SAM's.

    Its ball is relative to the weights: ||delta / (|theta| + eta)|| is at most rho.
    """
    climbs: list[_Climb] = [(r, partial(_by_rule, rule=partial(asam, rho=r, eta=eta), passes=1)) for r in radii]
    return _measure(objective, climbs, progress, kind="asam", ball="adaptive", steps=1)


def ascent_sharpness(
    objective: Objective,
    radii: Sequence[float] = (0.05,),
    *,
    steps: int = 5,
    step_size: float = 0.5,
    ball: Literal["tensor", "global"] = "global",
    seed: int | None = None,
    progress: Progress = silent,
) -> tuple[Sharpness, ...]:
    """Return the sharpness by projected gradient ascent at each of `radii`, in the units of the weights.

    Each step has the length `step_size` radii along the gradient, then delta is clipped to the ball; with ball
    "tensor" both are done for each parameter tensor by itself. The largest loss met counts. It starts at the weights,
    or with a seed at a random point half a radius away (of each tensor, with ball "tensor").

    Cost: 1 forward and backward pass, which all measures share; for each radius `steps` forward passes and `steps` - 1
    backward ones; with a seed one more of both.
    """
    check(ball=ball)
    check_number(1, steps=steps)
    check_number(0, step_size=step_size)
    climb = partial(_ascend, steps=steps, step_size=step_size, ball=ball, seed=seed)
    climbs: list[_Climb] = [(r, partial(climb, radius=r)) for r in radii]
    return _measure(objective, climbs, progress, kind="ascent", ball=ball, steps=steps)


class _Watch:
    """Evaluates the loss during an ascent, and remembers the largest and its distance from the start."""

    def __init__(self, objective: Objective, theta: list[Tensor]) -> None:
        self.objective, self.theta = objective, theta
        self.worst, self.distance = -math.inf, 0.0

    def note(self, loss: float, distance: float) -> None:
        # The first loss that is not a number stays: nothing is known to be larger.
        if not math.isnan(self.worst) and (math.isnan(loss) or loss > self.worst):
            self.worst, self.distance = loss, distance

    def gradient(self) -> list[Tensor]:
        loss, slope = self.objective.gradient()
        self.note(loss, self._moved())
        return slope

    def value(self) -> None:
        self.note(self.objective.value(), self._moved())

    def _moved(self) -> float:
        pairs = zip(self.objective.detached(), self.theta, strict=True)
        return math.sqrt(sum(float((p - t).double().square().sum()) for p, t in pairs))


_Climb = tuple[float, Callable[[_Watch], None]]  # a radius, and the ascent in its ball


def _measure(
    objective: Objective, climbs: Sequence[_Climb], progress: Progress, *, kind: str, ball: str, steps: int
) -> tuple[Sharpness, ...]:
    """Carry out each of the climbs from the weights, and put them back."""
    check(radius=[radius for radius, _ in climbs])
    _ = objective.slope  # at the weights, before anything is moved; every climb starts with it
    results: list[Sharpness] = []
    for radius, climb in climbs:
        with restored(objective.parameters) as theta:
            watch = _Watch(objective, theta)
            watch.note(objective.clean, 0.0)
            climb(watch)
        sharpness = Sharpness(
            kind=kind,
            ball=ball,
            radius=radius,
            steps=steps,
            loss=objective.clean,
            worst=watch.worst,
            increase=watch.worst - objective.clean,
            distance=watch.distance,
            count=objective.count,
        )
        results.append(sharpness)
        progress(len(results), len(climbs))
    return tuple(results)


def _by_rule(watch: _Watch, *, rule: Callable[..., Any], passes: int) -> None:
    """Let a method's rule climb; it makes one clean pass and `passes` perturbed ones."""
    parameters = watch.objective.parameters
    calls = 0

    def closure() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:  # the clean pass is known
            slope = watch.objective.slope
        elif calls <= passes:
            slope = watch.gradient()
        else:  # nothing reads the gradient of the last pass
            return watch.value()
        for parameter, gradient in zip(parameters, slope, strict=True):
            parameter.grad = gradient
        return None

    try:
        rule(closure, parameters, [])
    finally:
        for parameter in parameters:
            parameter.grad = None


def _ascend(watch: _Watch, *, radius: float, steps: int, step_size: float, ball: str, seed: int | None) -> None:
    """Climb by steps of a fixed length in the ball."""
    parameters = watch.objective.parameters
    slope = watch.objective.slope
    delta = [torch.zeros_like(w) for w in watch.theta]
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        noise = [torch.randn(w.shape, generator=generator).to(w.device, w.dtype) for w in watch.theta]
        delta = _of_length(noise, radius / 2, ball)
        move(parameters, delta, watch.theta)
        slope = watch.gradient()
    for step in range(steps):
        torch._foreach_add_(delta, _of_length(slope, step_size * radius, ball))
        delta = clipped(delta, 1.0, radius, ball)
        move(parameters, delta, watch.theta)
        if step < steps - 1:
            slope = watch.gradient()
        else:
            watch.value()


def _of_length(vectors: list[Tensor], length: float, ball: str) -> list[Tensor]:
    """Return the vectors scaled to this norm, each or all together; zero stays zero."""
    return scaled(vectors, factors(norms(vectors, ball), math.inf, length))
