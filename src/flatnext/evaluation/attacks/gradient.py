"""Random noise, FGSM and PGD.

FGSM: Goodfellow, Shlens and Szegedy, ICLR 2015, arXiv 1412.6572. PGD: Madry et al., ICLR 2018, arXiv 1706.06083.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from flatnext.errors import InputError
from flatnext.evaluation.attacks.attacked_model import AttackedModel
from flatnext.evaluation.attacks.ball import Ball
from flatnext.evaluation.attacks.losses import log_odds, margin_loss
from flatnext.evaluation.attacks.search import Attack, Draws, Outcome, Search, at_least_one


@dataclass(frozen=True, kw_only=True)
class Noise(Attack):
    """`trials` points drawn uniformly from the ball: a baseline for attacks. `trials` forward passes."""

    trials: int = 10
    name: str = "noise"

    def __post_init__(self) -> None:
        """Check the settings."""
        at_least_one(trials=self.trials)

    def __call__(self, model: AttackedModel, images: Tensor, labels: Tensor, ball: Ball, draws: Draws) -> Outcome:
        """Attack; see `Attack`."""
        search = Search(images, labels)
        for _ in range(self.trials):
            index = search.remaining
            if len(index) == 0:
                break
            points = ball.inside(images[index], draws.point(index, images))
            logits = model.predict(points)
            search.record(index, points, logits, margin_loss(logits, labels[index]))
        return search.outcome()


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Projected ascent of the cross-entropy in steps of `step_size` radii, from a random point of the ball.

    At most `steps` + 1 forward and `steps` backward passes. Every point on the way counts, not the last alone.
    """

    steps: int = 20
    step_size: float = 0.25
    random_start: bool = True
    name: str = "pgd"

    def __post_init__(self) -> None:
        """Check the settings."""
        at_least_one(steps=self.steps)
        if not self.step_size > 0:
            raise InputError(f"step_size is {self.step_size}: give a positive number of radii, such as 0.25")

    def __call__(self, model: AttackedModel, images: Tensor, labels: Tensor, ball: Ball, draws: Draws) -> Outcome:
        """Attack; see `Attack`."""
        search = Search(images, labels)
        index = search.remaining
        x = ball.inside(images, draws.point(index, images)) if self.random_start else images
        for _ in range(self.steps):
            logits, losses, gradient = model.gradient(x, partial(log_odds, labels=labels[index]))
            remain = search.record(index, x, logits, losses)
            index, x, gradient = index[remain], x[remain], gradient[remain]
            if len(index) == 0:
                return search.outcome()
            x = ball.step(images[index], x, gradient, self.step_size * ball.radius)
        logits = model.predict(x)
        search.record(index, x, logits, log_odds(logits, labels[index]))
        return search.outcome()


def fgsm() -> PGD:
    """Return FGSM: one step to the border of the ball, from the image itself. 2 forward passes and 1 backward."""
    return PGD(steps=1, step_size=1.0, random_start=False, name="fgsm")
