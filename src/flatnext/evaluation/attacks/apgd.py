"""Auto-PGD: PGD with momentum that halves its step by itself. Croce and Hein, ICML 2020, arXiv 2003.01690."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import partial

import torch
from torch import Tensor

from flatnext.errors import InputError
from flatnext.evaluation.attacks.attacked_model import AttackedModel
from flatnext.evaluation.attacks.ball import Ball
from flatnext.evaluation.attacks.losses import likeliest, log_odds, targeted_dlr
from flatnext.evaluation.attacks.search import Attack, Draws, Outcome, Search, at_least_one

MOMENTUM_WEIGHT = 0.75
RISES_WANTED = 0.75


@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """Auto-PGD on the cross-entropy, or with `targets` on the targeted difference of logits ratio (DLR).

    With targets it runs once for each of so many classes, those that are likeliest on the clean image after the label.
    With T runs (targets, or 1) an image costs at most T x (`steps` + 1) passes forward and backward, with targets one
    more forward. Where the authors' code differs from the text, it is followed: the share of rising steps must exceed
    0.75, and a point that is put back counts with the loss from before. One thing is not followed: they compare the
    loss of the first step with 0, this code with the loss at the start. In place of the cross-entropy it climbs the log
    odds, which rise with it.
    """

    steps: int = 100
    targets: int | None = None
    name: str = field(init=False)

    def __post_init__(self) -> None:
        """Check the settings."""
        object.__setattr__(self, "name", "apgd-ce" if self.targets is None else "apgd-dlr-targeted")
        at_least_one(steps=self.steps, targets=1 if self.targets is None else self.targets)

    def __call__(self, model: AttackedModel, images: Tensor, labels: Tensor, ball: Ball, draws: Draws) -> Outcome:
        """Attack; see `Attack`. Raises `InputError` if there are too few classes for targets."""
        search = Search(images, labels)
        for goal in self._goals(model, images, labels).unbind(1):
            index = search.remaining
            if len(index) == 0:
                break
            search.loss.fill_(-torch.inf)  # losses for several targets do not compare
            start = ball.border(images[index], draws.point(index, images))
            self._climb(model, search, index, goal[index], start, ball)
        return search.outcome()

    def _goals(self, model: AttackedModel, images: Tensor, labels: Tensor) -> Tensor:
        """Return the target classes (B x T) of the runs, likeliest first; without targets, the label as a filler."""
        if self.targets is None:
            return labels[:, None]
        logits = model.predict(images)
        if logits.shape[1] < 4:
            count = logits.shape[1]
            raise InputError(f"targeted DLR needs 4 classes and the model has {count}: choose attack pgd")
        return likeliest(logits, labels, self.targets)

    def _losses(self, logits: Tensor, labels: Tensor, goals: Tensor) -> Tensor:
        return log_odds(logits, labels) if self.targets is None else targeted_dlr(logits, labels, goals)

    def _climb(
        self, model: AttackedModel, search: Search, index: Tensor, goals: Tensor, start: Tensor, ball: Ball
    ) -> None:
        """Run once from `start`; a point, its loss and its gradient are evaluated `steps` + 1 times."""
        state = _State.begin(index, goals, start, 2 * ball.radius)
        checkpoints = _checkpoints(self.steps)
        for step in range(self.steps + 1):
            if step:
                state.move(search.clean[state.index], ball, 1.0 if step == 1 else MOMENTUM_WEIGHT)
            loss = partial(self._losses, labels=search.labels[state.index], goals=state.goals)
            logits, losses, gradient = model.gradient(state.x, loss)
            state.see(losses, gradient, first=step == 0)
            state = state.select(search.record(state.index, state.x, logits, losses))
            if len(state.index) == 0:
                return
            if step in checkpoints:
                state.check(checkpoints[step])


@dataclass(eq=False)
class _State:
    """The climb of the images that remain: tensors whose first dimension is the image."""

    index: Tensor
    goals: Tensor
    x: Tensor
    before: Tensor
    gradient: Tensor
    loss: Tensor
    step_size: Tensor
    rises: Tensor  # steps since the last checkpoint that raised the loss
    halved: Tensor  # at the last checkpoint
    best_x: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    checked_loss: Tensor  # the best loss at the last checkpoint

    @classmethod
    def begin(cls, index: Tensor, goals: Tensor, start: Tensor, step_size: float) -> _State:
        low = torch.full((len(index),), -torch.inf, dtype=start.dtype, device=index.device)
        return cls(
            *(index, goals, start, start, torch.zeros_like(start), low),
            step_size=torch.full((len(index), 1, 1, 1), step_size, dtype=start.dtype, device=index.device),
            rises=torch.zeros_like(index),
            halved=torch.ones_like(index, dtype=torch.bool),  # as the authors: the first checkpoint asks for rises only
            best_x=start,
            best_gradient=torch.zeros_like(start),
            best_loss=low,
            checked_loss=low,
        )

    def move(self, clean: Tensor, ball: Ball, weight: float) -> None:
        """Take a step: along the gradient with `weight`, along the last step with the rest."""
        ahead = ball.step(clean, self.x, self.gradient, self.step_size)
        moved = self.x + weight * (ahead - self.x) + (1 - weight) * (self.x - self.before)
        self.before, self.x = self.x, ball.project(clean, moved)

    def see(self, losses: Tensor, gradient: Tensor, *, first: bool) -> None:
        """Take note of the loss and gradient at `x`."""
        if not first:
            self.rises = self.rises + (losses > self.loss)
        self.loss, self.gradient = losses, gradient
        better = losses > self.best_loss
        wide = better.reshape(-1, 1, 1, 1)
        self.best_x = torch.where(wide, self.x, self.best_x)
        self.best_gradient = torch.where(wide, gradient, self.best_gradient)
        self.best_loss = torch.where(better, losses, self.best_loss)
        if first:
            self.checked_loss = self.best_loss

    def check(self, length: int) -> None:
        """Halve the step and return to the best point, where the climb of the last `length` steps has stalled."""
        stalled = ~self.halved & (self.best_loss <= self.checked_loss)
        self.halved = (self.rises <= RISES_WANTED * length) | stalled
        self.checked_loss, self.rises = self.best_loss, torch.zeros_like(self.rises)
        wide = self.halved.reshape(-1, 1, 1, 1)
        self.step_size = torch.where(wide, self.step_size / 2, self.step_size)
        self.x = torch.where(wide, self.best_x, self.x)
        self.gradient = torch.where(wide, self.best_gradient, self.gradient)

    def select(self, keep: Tensor) -> _State:
        """Return the climb of the images `keep` (bool)."""
        if bool(keep.all()):
            return self
        return _State(**{field.name: getattr(self, field.name)[keep] for field in fields(self)})


def _checkpoints(steps: int) -> dict[int, int]:
    """Return the steps after which the climb is checked, and how many steps each check looks back on."""
    length, shrink, shortest = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    lengths, step = {}, length
    while step <= steps:
        lengths[step] = length
        length = max(length - shrink, shortest)
        step += length
    return lengths
