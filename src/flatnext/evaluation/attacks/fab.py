"""FAB: a walk along the decision boundary towards the image. Croce and Hein, ICML 2020, arXiv 1907.02044."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from flatnext.evaluation.attacks.attacked_model import AttackedModel
from flatnext.evaluation.attacks.ball import Ball, Norm
from flatnext.evaluation.attacks.losses import lead, likeliest, margin_loss
from flatnext.evaluation.attacks.search import Attack, Draws, Outcome, Search, at_least_one

SMALLEST = 1e-8  # a change's size, where two of them are compared
NEGLIGIBLE = 1e-12  # a gradient's entry beside its largest
ALPHA_MAX, ETA, BETA = 0.1, 1.05, 0.9  # as in AutoAttack


@dataclass(frozen=True, kw_only=True)
class FAB(Attack):
    """Look for the least change of an image that makes it misclassified, in the targeted form (arXiv 2003.01690).

    A run aims at one of the `targets` classes that are likeliest on the clean image after the label, and starts at the
    image. Each step takes the boundary to that class for the plane that it is near the point, projects the point and
    the image onto the plane within [0, 1], goes 1.05 times as far, and mixes the two, the image's by at most 0.1. A
    misclassified point is pulled back to 0.9 of its distance. Only points in the ball count, so an image is done with
    at the first misclassified one there. With T targets an image costs at most 2 x T x `steps` + 1 passes forward, T x
    `steps` backward.

    As in AutoAttack's code, and unlike in the paper, there is no search along the line at the end. Unlike in the code,
    a plane's place is worked out from differences of points, not from sums over all pixels, which round more.
    """

    steps: int = 100
    targets: int = 9
    name: str = "fab-targeted"

    def __post_init__(self) -> None:
        """Check the settings."""
        at_least_one(steps=self.steps, targets=self.targets)

    def __call__(self, model: AttackedModel, images: Tensor, labels: Tensor, ball: Ball, draws: Draws) -> Outcome:
        """Attack; see `Attack`."""
        search = Search(images, labels)
        goals = likeliest(model.predict(images), labels, self.targets)
        for goal in goals.unbind(1):
            index = search.remaining
            if len(index) == 0:
                break
            self._walk(model, search, index, goal[index], ball)
        return search.outcome()

    def _walk(self, model: AttackedModel, search: Search, index: Tensor, goals: Tensor, ball: Ball) -> None:
        """Run once from the images."""
        x = search.clean[index]
        for _ in range(self.steps):
            clean, labels = search.clean[index], search.labels[index]
            _, leads, gradient = model.gradient(x, partial(lead, labels=labels, goals=goals))
            x = self._step(clean, x, leads, gradient, ball.norm)
            logits = model.predict(x)
            remain, inside = torch.ones_like(index, dtype=torch.bool), ball.holds(clean, x)
            losses = margin_loss(logits, labels)
            remain[inside] = search.record(index[inside], x[inside], logits[inside], losses[inside])
            wrong = (logits.argmax(dim=1) != labels).reshape(-1, 1, 1, 1)
            x = torch.where(wrong, clean + BETA * (x - clean), x)
            index, goals, x = index[remain], goals[remain], x[remain]
            if len(index) == 0:
                return

    def _step(self, clean: Tensor, x: Tensor, leads: Tensor, gradient: Tensor, norm: Norm) -> Tensor:
        """Return the next points: `leads` (B) and `gradient` are the boundary's function, 0 on it, and its gradient."""
        finite = (leads.isfinite() & gradient.flatten(1).isfinite().all(dim=1)).reshape(-1, 1, 1, 1)
        gradient, leads = torch.where(finite, gradient, 0), torch.where(finite.flatten(), leads, 0)
        onto = to_plane(x, gradient, -leads, norm)
        from_clean = to_plane(clean, gradient, (gradient * (x - clean)).sum(dim=(1, 2, 3)) - leads, norm)
        near, far = (Ball.size(change, norm).clamp_min(SMALLEST) for change in (onto, from_clean))
        share = (near / (near + far)).clamp(max=ALPHA_MAX)
        return ((1 - share) * (x + ETA * onto) + share * (clean + ETA * from_clean)).clamp(0, 1)


def to_plane(images: Tensor, normal: Tensor, gap: Tensor, norm: Norm) -> Tensor:
    """Return the least change in `norm` (B x 3 x H x W) with `normal` . change = `gap` (B) that stays in [0, 1].

    Where no image in [0, 1] lies on the plane, it is the change that comes nearest to the plane. Pixels whose entry
    in `normal` is 0, or 1e-12 of the largest, do not change.
    """
    normal, pixels = normal.flatten(1), images.flatten(1)
    largest = normal.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(normal.dtype).tiny)
    normal, gap = torch.where(gap < 0, -1, 1)[:, None] * normal / largest, gap.abs() / largest.flatten()
    weight = torch.where(normal.abs() > NEGLIGIBLE, normal.abs(), 0)
    room = torch.where(weight > 0, torch.where(normal > 0, 1 - pixels, pixels), 0)
    speed = torch.ones_like(weight) if norm == "linf" else weight
    change = normal.sign() * torch.minimum(_time(weight, speed, room, gap)[:, None] * speed, room)
    return change.reshape(images.shape)


def _time(weight: Tensor, speed: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """Return the time t (B) at which the sum of `weight` x min(`speed` x t, `room`) over dimension 1 is `gap`.

    The sum rises with t along a broken line that bends where an entry has used up its room. Where it never gets to
    `gap`, the time of the last bend is returned.
    """
    bends, order = (room / speed.clamp_min(torch.finfo(speed.dtype).tiny)).sort(dim=1)
    ends, slopes = (values.gather(1, order) for values in (weight * room, weight * speed))
    before = ends.cumsum(dim=1) - ends  # of the entries that stopped at earlier bends
    slope = slopes.flip(1).cumsum(dim=1).flip(1)  # of those that move until this bend
    at = ((before + bends * slope < gap[:, None]).sum(dim=1, keepdim=True)).clamp(max=bends.shape[1] - 1)
    before, slope, bend = (values.gather(1, at).squeeze(1) for values in (before, slope, bends))
    time = (gap - before).clamp_min(0) / slope.clamp_min(torch.finfo(slope.dtype).tiny)
    return torch.minimum(time, bend)
