"""Signs that an attack is weak or that gradients are masked: what must hold for any model, each with pass or fail.

The list follows Athalye, Carlini and Wagner, ICML 2018, arXiv 1802.00420, section 3.1, and Carlini et al., arXiv
1902.06705.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flatnext.errors import InputError
from flatnext.evaluation.attacks.ball import Norm
from flatnext.evaluation.attacks.gradient import PGD, Noise, fgsm
from flatnext.evaluation.attacks.losses import log_odds
from flatnext.evaluation.attacks.robustness import Progress, robustness
from flatnext.evaluation.attacks.search import Attack
from flatnext.evaluation.attacks.square import Square
from flatnext.evaluation.attacks.target import Target, attackable

Measure = Callable[[Attack, float], float]
"""Robust accuracy under an attack at a budget."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check: what it asks, whether it holds, and the figures that it looked at, by name."""

    name: str
    passed: bool
    values: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the check as a dict that `json` can write."""
        return asdict(self)


def sanity_checks(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    norm: Norm = "linf",
    budget: float = 8.0,
    steps: int = 20,
    queries: int = 100,
    slack: float = 0.01,
    seed: int = 0,
    batch_size: int = 100,
    precision: str = "fp32",
    channels_last: bool = True,
    progress: Progress | None = None,
) -> tuple[Check, ...]:
    """Return the checks, for PGD with `steps` steps on this model and these images; `robustness` has the arguments.

    `slack` is the fraction of the images by which an accuracy may be on the wrong side: the attacks draw at random.
    An image costs at most 3.25 x `steps` + `queries` + 34 passes forward and 3.25 x `steps` + 3 backward: with the
    defaults 199 and 68.
    """
    if steps < 4:
        raise InputError(f"steps is {steps}: give at least 4, so that a quarter of them is one")
    if not 0 <= slack < 1:
        raise InputError(f"slack is {slack}: give a fraction of the images, such as 0.01")
    done, total = 0, 10
    common: dict[str, Any] = {"mean": mean, "std": std, "precision": precision, "channels_last": channels_last}

    def measure(attack: Attack, at: float) -> float:
        nonlocal done
        options = common | {"norm": norm, "budget": at, "seed": seed, "batch_size": batch_size}
        found = robustness(model, images, labels, attacks=[attack], **options)
        done += 1
        if progress is not None:
            progress(done, total)
        return found.robust_accuracy

    clean = robustness(model, images, labels, attacks=[Noise(trials=1)], norm=norm, budget=0.0, **common)
    full = measure(_pgd(steps), budget)
    return (
        *_strength(measure, budget, steps, queries, full, slack),
        *_limits(measure, clean.clean_accuracy, budget, steps, full, slack, _reach(norm, images)),
        _gradients(model, images[clean.correct], labels[clean.correct], batch_size, common),
    )


def _pgd(steps: int) -> PGD:
    """Return PGD whose steps reach 2.5 radii in all, as its authors have it."""
    return PGD(steps=steps, step_size=2.5 / steps)


def _strength(
    measure: Measure, budget: float, steps: int, queries: int, full: float, slack: float
) -> tuple[Check, ...]:
    """Compare weaker attacks and fewer steps with PGD at one budget."""
    by_steps = {f"{k} steps": measure(_pgd(k), budget) for k in (steps // 4, steps // 2)} | {f"{steps} steps": full}
    one = measure(fgsm(), budget)
    return (
        _falling("more steps do not help the model", by_steps, slack),
        _falling("noise is weaker than FGSM", {"noise": measure(Noise(), budget), "fgsm": one}, slack),
        _falling("FGSM is weaker than PGD", {"fgsm": one, "pgd": full}, slack),
        _falling(
            "random search is weaker than PGD", {"square": measure(Square(queries=queries), budget), "pgd": full}, slack
        ),
    )


def _limits(
    measure: Measure, clean: float, budget: float, steps: int, full: float, slack: float, reach: float
) -> tuple[Check, ...]:
    """Look at budgets of zero, around the one in question, and of the whole range of pixels."""
    none, whole = measure(_pgd(1), 0.0), measure(_pgd(steps // 2), reach)
    around = {
        "half the budget": measure(_pgd(steps // 2), budget / 2),
        "the budget": full,
        "twice the budget": measure(_pgd(steps // 2), min(2 * budget, reach)),
    }
    return (
        Check(name="no budget leaves the clean accuracy", passed=none == clean, values={"clean": clean, "pgd": none}),
        _falling("a larger budget does not help the model", around, slack),
        Check(name="with the whole range of pixels nothing is left", passed=whole <= slack, values={"pgd": whole}),
    )


def _falling(name: str, values: dict[str, float], slack: float) -> Check:
    """Return a check that no value is above the one before it, by more than `slack`."""
    row = list(values.values())
    passed = all(after <= before + slack for before, after in itertools.pairwise(row))
    return Check(name=name, passed=passed, values=values)


def _reach(norm: Norm, images: Tensor) -> float:
    """Return the budget, in 1/255, from which on any image is in the ball."""
    return 255.0 if norm == "linf" else 255.0 * math.sqrt(images[0].numel())


def _gradients(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int, common: dict[str, Any]) -> Check:
    """Return a check that the loss has a finite gradient that is not 0 at every image."""
    dead, count = 0, max(len(images), 1)
    with attackable(model):
        target = Target(model, **common)
        for batch, true in zip(images.split(batch_size), labels.to(target.device).split(batch_size), strict=True):
            pixels = batch.to(target.device, target.dtype)
            pixels = pixels / 255 if batch.dtype == torch.uint8 else pixels
            if len(pixels):
                _, _, gradient = target.gradient(pixels, lambda z, y=true: log_odds(z, y))  # type: ignore[misc]
                flat = gradient.flatten(1)
                dead += int((~flat.isfinite().all(dim=1) | (flat == 0).all(dim=1)).sum())
    return Check(name="every image has a gradient", passed=dead == 0, values={"without": dead / count})
