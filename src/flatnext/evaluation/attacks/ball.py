"""The images that an attack may use: a ball around each clean image, within [0, 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flatnext.errors import InputError

Norm = Literal["linf", "l2"]


@dataclass(frozen=True)
class Ball:
    """A ball in `norm` of `budget` / 255 on images in [0, 1]. Raises `InputError` where these make no ball."""

    norm: Norm
    budget: float

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.norm not in ("linf", "l2"):
            raise InputError(f"norm is {self.norm!r}: choose linf or l2")
        if not (math.isfinite(self.budget) and self.budget >= 0):
            raise InputError(f"budget is {self.budget}: give a number of 1/255, at least 0")

    @property
    def radius(self) -> float:
        """The radius on images in [0, 1]."""
        return self.budget / 255

    @staticmethod
    def size(delta: Tensor, norm: Norm) -> Tensor:
        """Return the norm of each change `delta` (B x 3 x H x W), B x 1 x 1 x 1."""
        return _largest(delta) if norm == "linf" else lengths(delta)

    def holds(self, clean: Tensor, images: Tensor) -> Tensor:
        """Return which of `images` are in the ball around `clean` (bool, B); [0, 1] is not checked."""
        return self.size(images - clean, self.norm).flatten() <= self.radius

    def project(self, clean: Tensor, images: Tensor) -> Tensor:
        """Return `images` (B x 3 x H x W) moved into the ball around `clean`, then clipped to [0, 1].

        Clipping stays in the ball, since the clean pixels are in [0, 1]. For L2 the result is inside both, though not
        always the nearest such point.
        """
        delta = images - clean
        if self.norm == "linf":
            delta = delta.clamp(-self.radius, self.radius)
        else:
            delta = delta * (self.radius / lengths(delta).clamp_min(_tiny(delta))).clamp(max=1.0)
        return (clean + delta).clamp(0, 1)

    def step(self, clean: Tensor, images: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """Return `images` after a projected step along the gradient, whose length in the norm is `size`."""
        return self.project(clean, images + size * self.direction(gradient))

    def direction(self, gradient: Tensor) -> Tensor:
        """Return the steepest ascent of norm 1: the sign, or the gradient divided by its length; 0 where it is 0.

        An entry that is not finite counts as 0.
        """
        gradient = torch.where(gradient.isfinite(), gradient, 0)
        if self.norm == "linf":
            return gradient.sign()
        # By the largest entry first: squares of the tiny gradients of a confident model would underflow.
        gradient = gradient / _largest(gradient).clamp_min(_tiny(gradient))
        return gradient / lengths(gradient).clamp_min(_tiny(gradient))

    def inside(self, clean: Tensor, draw: Tensor) -> Tensor:
        """Return points drawn uniformly from the ball, clipped; `draw` is B x (1 + 3 H W) uniform in [0, 1)."""
        if self.norm == "linf":
            return self.project(clean, clean + self.radius * (2 * draw[:, 1:] - 1).reshape(clean.shape))
        dimensions = draw.shape[1] - 1
        share = draw[:, 0].pow(1 / dimensions).reshape(-1, 1, 1, 1)
        return self.project(clean, clean + self.radius * share * self.direction(_normal(draw[:, 1:], clean)))

    def border(self, clean: Tensor, draw: Tensor) -> Tensor:
        """Return points of norm `radius`, clipped, from a `draw` as for `inside`."""
        if self.norm == "linf":
            delta = (2 * draw[:, 1:] - 1).reshape(clean.shape)
            return self.project(clean, clean + self.radius * delta / _largest(delta).clamp_min(_tiny(delta)))
        return self.project(clean, clean + self.radius * self.direction(_normal(draw[:, 1:], clean)))


def lengths(images: Tensor) -> Tensor:
    """Return the L2 norm of each image, B x 1 x 1 x 1."""
    return torch.linalg.vector_norm(images, dim=(1, 2, 3), keepdim=True)


def _normal(uniform: Tensor, like: Tensor) -> Tensor:
    """Return standard normal values of the shape of `like` from uniform ones."""
    inner = uniform.clamp(1e-6, 1 - 1e-6)
    return torch.special.ndtri(inner).reshape(like.shape)


def _largest(images: Tensor) -> Tensor:
    return images.abs().amax(dim=(1, 2, 3), keepdim=True)


def _tiny(images: Tensor) -> float:
    return torch.finfo(images.dtype).tiny
