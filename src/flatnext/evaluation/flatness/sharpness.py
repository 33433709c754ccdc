"""How far the loss rises inside a ball around the weights, by the ascent of a method.

Each is a lower bound of the largest loss in the ball: an ascent may stop short of it. AMP's ascent takes a step of the
gradient's own length, so that near a minimum it may stay far inside the ball; SAM's one step goes to the edge. A
comparison of models with weights of different size needs ASAM's, whose ball is relative to the weights: batch norm
makes a filter's scale meaningless (arXiv 1703.04933).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from torch import Tensor

from flatnext.evaluation.flatness.objective import Objective
from flatnext.methods import amp, asam, sam
from flatnext.methods.perturbation import check, restored
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
    rules = [partial(amp, epsilon=r, inner_lr=inner_lr, inner_iter=inner_iter, ball=ball) for r in radii]
    return _measure(objective, radii, rules, progress, kind="amp", ball=ball, steps=inner_iter)


def sam_sharpness(
    objective: Objective, radii: Sequence[float] = (0.05,), *, progress: Progress = silent
) -> tuple[Sharpness, ...]:
    """Return the sharpness by SAM's step of length rho (`flatnext.methods.sam`) at each rho of `radii`.

    Cost: 1 forward and backward pass, which all measures share; 1 forward pass for each radius.
    """
    rules = [partial(sam, rho=r) for r in radii]
    return _measure(objective, radii, rules, progress, kind="sam", ball="global", steps=1)


def asam_sharpness(
    objective: Objective, radii: Sequence[float] = (0.5,), *, eta: float = 0.01, progress: Progress = silent
) -> tuple[Sharpness, ...]:
    """Return the sharpness by ASAM's step (`flatnext.methods.asam`) at each rho of `radii`; cost as for SAM's.

    Its ball is relative to the weights: ||delta / (|theta| + eta)|| is at most rho.
    """
    rules = [partial(asam, rho=r, eta=eta) for r in radii]
    return _measure(objective, radii, rules, progress, kind="asam", ball="adaptive", steps=1)


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


def _measure(
    objective: Objective,
    radii: Sequence[float],
    rules: Sequence[Callable[..., Any]],
    progress: Progress,
    *,
    kind: str,
    ball: str,
    steps: int,
) -> tuple[Sharpness, ...]:
    """Let the rule of each radius climb from the weights, in so many `steps`, and put them back."""
    check(radius=list(radii), several=("radius",))
    _ = objective.slope  # at the weights, before anything is moved; every climb starts with it
    results: list[Sharpness] = []
    for radius, rule in zip(radii, rules, strict=True):
        with restored(objective.parameters) as theta:
            watch = _Watch(objective, theta)
            watch.note(objective.clean, 0.0)
            _climb(watch, rule, steps)
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
        progress(len(results), len(rules))
    return tuple(results)


def _climb(watch: _Watch, rule: Callable[..., Any], passes: int) -> None:
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
