"""Square: random search without gradients. Andriushchenko et al., ECCV 2020, arXiv 1912.00049."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flatnext.evaluation.attacks.attacked_model import AttackedModel
from flatnext.evaluation.attacks.ball import Ball, lengths
from flatnext.evaluation.attacks.losses import margin_loss
from flatnext.evaluation.attacks.search import Attack, Draws, Outcome, Search, at_least_one

CHUNK = 64  # queries whose random numbers are drawn at a time
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries of 10,000 after which the share of the image that a square covers is halved."""
SHARE = 0.8  # that the first windows cover, as in AutoAttack


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Change one square window at a time, and keep what lowers the margin. At most `queries` + 1 forward passes.

    The windows shrink as in the paper, whose schedule is for 10,000 queries: `rescale` scales it to `queries`
    (AutoAttack does not). Unlike in the authors' code each image has windows of its own, which also reach the last row
    and column.
    """

    queries: int = 5000
    rescale: bool = True
    name: str = "square"

    def __post_init__(self) -> None:
        """Check the settings."""
        at_least_one(queries=self.queries)

    def __call__(self, model: AttackedModel, images: Tensor, labels: Tensor, ball: Ball, draws: Draws) -> Outcome:
        """Attack; see `Attack`."""
        search = Search(images, labels)
        start, propose = (_stripes, _linf) if ball.norm == "linf" else (_tiles, _l2)
        self._query(model, search, search.remaining, start(images, ball, draws))
        channels = images.shape[1]
        for query in range(self.queries):
            index = search.remaining
            if len(index) == 0:
                break
            if query % CHUNK == 0:
                numbers = torch.zeros(len(images), CHUNK, 5 + channels, device=images.device)
                numbers[index] = draws.uniform(index, CHUNK, 5 + channels)
            side = self._side(query, images, odd=ball.norm == "l2")
            best = search.images[index]
            self._query(model, search, index, propose(images[index], best, ball, side, numbers[index, query % CHUNK]))
        return search.outcome()

    def _side(self, query: int, images: Tensor, *, odd: bool) -> int:
        """Return the side of a window in pixels; for L2 odd and at least 3, where the image is as large."""
        height, width = images.shape[2:]
        query = int(query / self.queries * 10_000) if self.rescale else query
        share = SHARE / 2 ** sum(query > limit for limit in HALVINGS)
        side = max(round(math.sqrt(share * height * width)), 3 if odd else 1)
        side += odd and side % 2 == 0
        largest = min(height, width)
        return min(side, largest - (odd and largest % 2 == 0 and largest > 1))

    @staticmethod
    def _query(model: AttackedModel, search: Search, index: Tensor, points: Tensor) -> None:
        logits = model.predict(points)
        search.record(index, points, logits, margin_loss(logits, search.labels[index]))


def _stripes(images: Tensor, ball: Ball, draws: Draws) -> Tensor:
    """Return the images with vertical stripes a pixel wide, each at the border of the ball."""
    count, channels, _, width = images.shape
    all_images = torch.arange(count, device=images.device)
    signs = _signs(draws.uniform(all_images, channels, 1, width)).to(images.dtype)
    return ball.project(images, images + ball.radius * signs)


def _linf(clean: Tensor, best: Tensor, ball: Ball, side: int, numbers: Tensor) -> Tensor:
    """Return `best` with all pixels of a window moved to one border of the ball, a sign for each channel."""
    window = _window(clean, side, numbers[:, 0], numbers[:, 1])
    signs = _signs(numbers[:, 5:]).to(clean.dtype)[:, :, None, None]
    return ball.project(clean, torch.where(window, clean + ball.radius * signs, best))


def _tiles(images: Tensor, ball: Ball, draws: Draws) -> Tensor:
    """Return the images with a 5 x 5 grid of bumps, scaled to the border of the ball."""
    count, channels, height, width = images.shape
    side = max(min(height, width) // 5, 1)
    rows, columns = height // side, width // side
    all_images = torch.arange(count, device=images.device)
    numbers = draws.uniform(all_images, channels + 1, rows, columns)
    bumps = _bump(side, images)[(numbers[:, 0] > 0.5).long()]  # B x rows x columns x side x side
    signed = bumps[:, None] * _signs(numbers[:, 1:]).to(images.dtype)[..., None, None]
    delta = torch.zeros_like(images)
    block = signed.permute(0, 1, 2, 4, 3, 5).reshape(count, channels, rows * side, columns * side)
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    delta[:, :, top : top + rows * side, left : left + columns * side] = block
    return (images + ball.radius * ball.direction(delta)).clamp(0, 1)


def _l2(clean: Tensor, best: Tensor, ball: Ball, side: int, numbers: Tensor) -> Tensor:
    """Return `best` with the budget of a second window, and what is unused, moved into a bump in a first."""
    delta = best - clean
    first = _window(clean, side, numbers[:, 0], numbers[:, 1])
    second = _window(clean, side, numbers[:, 2], numbers[:, 3])
    inner = delta * first
    enclosed = lengths(delta * (first | second))
    unused = (ball.radius**2 - lengths(delta).square()).clamp_min(0)
    signs = _signs(numbers[:, 5:]).to(clean.dtype)[:, :, None, None]
    bump = _placed_bump(clean, side, numbers) * first * signs + _each_channel(inner)
    new = _each_channel(bump) * (unused / clean.shape[1] + enclosed.square()).sqrt()
    moved = torch.where(first, new, delta * ~second)
    return (clean + ball.radius * ball.direction(moved)).clamp(0, 1)


def _window(images: Tensor, side: int, row: Tensor, column: Tensor) -> Tensor:
    """Return a mask (bool, B x 1 x H x W) of one window of `side` pixels an image; `row`, `column` are in [0, 1)."""
    down, right = _offsets(images, side, row, column)
    return ((down >= 0) & (down < side))[:, None, :, None] & ((right >= 0) & (right < side))[:, None, None, :]


def _offsets(images: Tensor, side: int, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far each row (B x H) and column (B x W) is from the window's first."""
    height, width = images.shape[2:]
    top, left = (row * (height - side + 1)).long(), (column * (width - side + 1)).long()
    rows, columns = (torch.arange(size, device=images.device) for size in (height, width))
    return rows - top[:, None], columns - left[:, None]


def _placed_bump(images: Tensor, side: int, numbers: Tensor) -> Tensor:
    """Return the bump at each image's window (B x 1 x H x W), upright or turned; outside the window it is arbitrary."""
    down, right = (offset.clamp(0, side - 1) for offset in _offsets(images, side, numbers[:, 0], numbers[:, 1]))
    turned = (numbers[:, 4] > 0.5).long()
    bump = _bump(side, images)
    return bump[turned[:, None, None], down[:, :, None], right[:, None, :]][:, None]


def _bump(side: int, like: Tensor) -> Tensor:
    """Return the paper's window for L2, of norm 1, upright and turned (2 x side x side): a hill above a valley."""
    upper = side // 2
    bump = torch.cat([_hill(upper, side), -_hill(side - upper, side)]).to(like)
    bump = bump / torch.linalg.vector_norm(bump)
    return torch.stack([bump, bump.T])


def _hill(height: int, width: int) -> Tensor:
    """Return rectangles around the middle, the k-th of 2 k - 1 pixels a side adding 1 / k ** 2; scaled to norm 1."""
    hill = torch.zeros(height, width)
    top, left = height // 2, width // 2
    for k in range(max(top, left) + 1):
        hill[max(top - k, 0) : top + k + 1, max(left - k, 0) : left + k + 1] += 1 / (k + 1) ** 2
    return hill / torch.linalg.vector_norm(hill).clamp_min(1e-12)


def _each_channel(images: Tensor) -> Tensor:
    """Return each channel of each image divided by its L2 norm; 0 where it is 0."""
    norms = torch.linalg.vector_norm(images, dim=(2, 3), keepdim=True)
    return images / norms.clamp_min(torch.finfo(images.dtype).tiny)


def _signs(uniform: Tensor) -> Tensor:
    return torch.where(uniform < 0.5, -1.0, 1.0)
