"""Random noise, FGSM and PGD.

FGSM: Goodfellow, Shlens and Szegedy, ICLR 2015, arXiv 1412.6572. PGD: Madry et al., ICLR 2018, arXiv 1706.06083.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from flatnext.errors import InputError
from flatnext.evaluation.attacks.ball import Ball
from flatnext.evaluation.attacks.losses import log_odds, margin_loss
from flatnext.evaluation.attacks.search import Draws, Outcome, Search
from flatnext.evaluation.attacks.target import Target


@dataclass(frozen=True, kw_only=True)
class Noise:
    """`trials` points drawn uniformly from the ball: no attack, but what attacks must beat. `trials` forward passes."""

    trials: int = 10
    name: str = "noise"

    def __post_init__(self) -> None:
        """Check the settings."""
        at_least_one(trials=self.trials)

    def passes(self) -> tuple[int, int]:
        """Return how often at most an image goes forward and backward."""
        return self.trials, 0

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a dict that `json` can write."""
        return asdict(self)

    def __call__(self, target: Target, images: Tensor, labels: Tensor, ball: Ball, draws: Draws) -> Outcome:
        """Attack; see `Attack`."""
        search = Search(images, labels)
        for _ in range(self.trials):
            here = search.standing
            if len(here) == 0:
                break
            points = ball.inside(images[here], draw(draws, here, images))
            logits = target.answer(points)
            search.record(here, points, logits, margin_loss(logits, labels[here]))
        return search.outcome()


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Projected ascent of the cross-entropy in steps of `step_size` radii, from a random point of the ball.

    At most `restarts` x (`steps` + 1) forward and `restarts` x `steps` backward passes. Every point on the way counts,
    not the last alone.
    """

    steps: int = 20
    restarts: int = 1
    step_size: float = 0.25
    random_start: bool = True
    name: str = "pgd"

    def __post_init__(self) -> None:
        """Check the settings."""
        at_least_one(steps=self.steps, restarts=self.restarts)
        if not self.step_size > 0:
            raise InputError(f"step_size is {self.step_size}: give a positive number of radii, such as 0.25")
        if self.restarts > 1 and not self.random_start:
            raise InputError("restarts without random_start would all be the same: give restarts 1")

    def passes(self) -> tuple[int, int]:
        """Return how often at most an image goes forward and backward."""
        return self.restarts * (self.steps + 1), self.restarts * self.steps

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a dict that `json` can write."""
        return asdict(self)

    def __call__(self, target: Target, images: Tensor, labels: Tensor, ball: Ball, draws: Draws) -> Outcome:
        """Attack; see `Attack`."""
        search = Search(images, labels)
        for _ in range(self.restarts):
            here = search.standing
            if len(here) == 0:
                break
            start = ball.inside(images[here], draw(draws, here, images)) if self.random_start else images[here]
            self._climb(target, search, here, start, ball)
        return search.outcome()

    def _climb(self, target: Target, search: Search, here: Tensor, x: Tensor, ball: Ball) -> None:
        for _ in range(self.steps):
            labels = search.labels[here]
            logits, losses, gradient = target.gradient(x, lambda z, y=labels: log_odds(z, y))  # type: ignore[misc]
            stands = search.record(here, x, logits, losses)
            here, x, gradient = here[stands], x[stands], gradient[stands]
            if len(here) == 0:
                return
            step = self.step_size * ball.radius * ball.direction(gradient)
            x = ball.project(search.clean[here], x + step)
        logits = target.answer(x)
        search.record(here, x, logits, log_odds(logits, search.labels[here]))


def fgsm() -> PGD:
    """Return FGSM: one step to the border of the ball, from the image itself. 2 forward passes and 1 backward."""
    return PGD(steps=1, step_size=1.0, random_start=False, name="fgsm")


def draw(draws: Draws, which: Tensor, images: Tensor) -> Tensor:
    """Return what `Ball.inside` and `Ball.border` need for the images `which`, in the images' type."""
    return draws.uniform(which, 1 + images[0].numel()).to(images.dtype)


def at_least_one(**settings: int) -> None:
    """Raise `InputError` for a setting below 1."""
    for name, value in settings.items():
        if value < 1:
            raise InputError(f"{name} is {value}: give at least 1")
