"""Signs that an attack is weak or that gradients are masked: what must hold for any model, each with pass or fail.

The list follows Athalye, Carlini and Wagner, ICML 2018, arXiv 1802.00420, section 3.1, and Carlini et al., arXiv
1902.06705.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from flatnext.errors import InputError
from flatnext.evaluation.attacks.attacked_model import AttackedModel, frozen
from flatnext.evaluation.attacks.ball import Norm
from flatnext.evaluation.attacks.gradient import PGD, Noise, fgsm
from flatnext.evaluation.attacks.losses import log_odds
from flatnext.evaluation.attacks.robustness import pixels, robustness
from flatnext.evaluation.attacks.search import Attack
from flatnext.evaluation.attacks.square import Square
from flatnext.evaluation.predictor import Predictor
from flatnext.progress import Progress, silent
from flatnext.runs.evidence import Check

RobustAccuracy = Callable[[Attack, float], float]
"""The accuracy under an attack at a budget."""

ATTACKS = 10  # that are carried out


def sanity_checks(
    predictor: Predictor,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm = "linf",
    budget: float = 8.0,
    steps: int = 20,
    queries: int = 100,
    slack: float = 0.01,
    seed: int = 0,
    batch_size: int = 100,
    progress: Progress = silent,
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
    attacked = partial(robustness, predictor, images, labels, norm=norm, batch_size=batch_size)
    done = itertools.count(1)

    def accuracy(attack: Attack, at: float) -> float:
        robust = attacked(attacks=[attack], budget=at, seed=seed).result.robust_accuracy
        progress(next(done), ATTACKS)
        return robust

    clean = attacked(attacks=[Noise(trials=1)], budget=0.0)
    full = accuracy(_pgd(steps), budget)
    return (
        *_strength(accuracy, budget, steps, queries, full, slack),
        *_limits(accuracy, clean.result.clean_accuracy, budget, steps, full, slack, _reach(norm, images)),
        _gradients(predictor, images[clean.correct], labels[clean.correct], batch_size),
    )


def _pgd(steps: int) -> PGD:
    """Return PGD whose steps reach 2.5 radii in all, as its authors have it."""
    return PGD(steps=steps, step_size=2.5 / steps)


def _strength(
    accuracy: RobustAccuracy, budget: float, steps: int, queries: int, full: float, slack: float
) -> tuple[Check, ...]:
    """Compare weaker attacks and fewer steps with PGD at one budget."""
    by_steps = {f"{k} steps": accuracy(_pgd(k), budget) for k in (steps // 4, steps // 2)} | {f"{steps} steps": full}
    single = accuracy(fgsm(), budget)
    noise, square = accuracy(Noise(), budget), accuracy(Square(queries=queries), budget)
    return (
        _falling("more steps do not help the model", by_steps, slack),
        _falling("noise is weaker than FGSM", {"noise": noise, "fgsm": single}, slack),
        _falling("FGSM is weaker than PGD", {"fgsm": single, "pgd": full}, slack),
        _falling("random search is weaker than PGD", {"square": square, "pgd": full}, slack),
    )


def _limits(
    accuracy: RobustAccuracy, clean: float, budget: float, steps: int, full: float, slack: float, reach: float
) -> tuple[Check, ...]:
    """Look at budgets of zero, around the one in question, and of the whole range of pixels."""
    none, whole = accuracy(_pgd(1), 0.0), accuracy(_pgd(steps // 2), reach)
    around = {
        "half the budget": accuracy(_pgd(steps // 2), budget / 2),
        "the budget": full,
        "twice the budget": accuracy(_pgd(steps // 2), min(2 * budget, reach)),
    }
    return (
        Check(name="no budget leaves the clean accuracy", passed=none == clean, values={"clean": clean, "pgd": none}),
        _falling("a larger budget does not help the model", around, slack),
        Check(name="with the whole range of pixels nothing is left", passed=whole <= slack, values={"pgd": whole}),
    )


def _falling(name: str, accuracies: Mapping[str, float], slack: float) -> Check:
    """Return a check that no accuracy is above the one before it, by more than `slack`."""
    passed = all(after <= before + slack for before, after in itertools.pairwise(accuracies.values()))
    return Check(name=name, passed=passed, values=dict(accuracies))


def _reach(norm: Norm, images: Tensor) -> float:
    """Return the budget, in 1/255, from which on any image is in the ball."""
    return 255.0 if norm == "linf" else 255.0 * math.sqrt(images[0].numel())


def _gradients(predictor: Predictor, images: Tensor, labels: Tensor, batch_size: int) -> Check:
    """Return a check that the loss has a finite gradient that is not 0 at every image."""
    without = 0
    with frozen(predictor.model):
        model = AttackedModel(predictor)
        batches = zip(images.split(batch_size), labels.to(model.device).split(batch_size), strict=True)
        for batch, target in batches if len(images) else ():
            _, _, gradient = model.gradient(pixels(batch, model), partial(log_odds, labels=target))
            flat = gradient.flatten(1)
            without += int((~flat.isfinite().all(dim=1) | (flat == 0).all(dim=1)).sum())
    share = without / max(len(images), 1)
    return Check(name="every image has a gradient", passed=without == 0, values={"without": share})
