"""Adversarial training: the gradient at images that were changed, inside a small ball, to raise the loss.

FGSM: Goodfellow, Shlens and Szegedy, ICLR 2015, arXiv 1412.6572; with several steps, PGD: Madry et al., ICLR 2018,
arXiv 1706.06083. It perturbs the inputs, where AMP perturbs the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

import torch
from torch import Tensor

from flatnext.errors import InputError
from flatnext.methods.perturbation import TINY, check, distinct, move, off, restored
from flatnext.methods.rule import explained

T = TypeVar("T")


@explained
def adversarial(
    closure: Callable[[], T],
    inputs: Iterable[Tensor],
    buffers: Iterable[Tensor],
    *,
    epsilon: float | Tensor,
    inner_lr: float = 1.25,
    inner_iter: int = 1,
    norm: Literal["linf", "l2"] = "linf",
    unit: float | Tensor = 1.0,
    low: Tensor | None = None,
    high: Tensor | None = None,
) -> T:
    """Leave in the weights' `.grad` the gradient at perturbed inputs.

    delta starts at 0 and is set `inner_iter` times to ``project(delta + inner_lr * epsilon * direction)``, direction
    being the sign of the inputs' gradient (linf) or the gradient of each image divided by its norm (l2); project clips
    to the ball of radius epsilon around each image, and keeps pixels between `low` and `high` where they are.

    Cost: 1 + inner_iter passes a step. For the contract see `flatnext.methods.Rule`; here it is the inputs that are
    perturbed and put back, and `closure` must run the model on these very tensors.

    Args:
        closure: zeroes the weights' gradients, runs forward and backward, returns anything.
        inputs: images, N x ... each; they need not require a gradient.
        buffers: as for the other methods; they keep what the clean pass did to them.
        epsilon: radius of the ball around an image, in pixels of range [0, 1] (2/255, say); 0 is plain training.
        inner_lr: length of a step, in radii.
        inner_iter: steps; 0 is plain training.
        norm: norm of the ball.
        unit: 1 / std of the normalisation, which a change of a pixel by 1.0 is in the inputs, broadcast against them.
        low: the value in the inputs of a pixel of 0.0, broadcast against them.
        high: that of a pixel of 1.0; without `low` and `high`, pixels may leave their range.

    Returns:
        What the first call of `closure`, on the clean inputs, returned.
    """
    check(epsilon=epsilon, inner_lr=inner_lr, inner_iter=inner_iter)
    if norm not in ("linf", "l2"):
        raise InputError(f"norm is {norm!r}: choose linf or l2")
    images = distinct(inputs)
    if off(epsilon, inner_lr) or inner_iter == 0:
        return closure()
    before = [(x.requires_grad, x.grad) for x in images]
    with restored(images) as clean:
        try:
            for x in images:
                x.requires_grad_().grad = None
            result = closure()
            if any(x.grad is None for x in images):
                raise InputError("the images have no gradient after the closure: run the model on them, and backward")
            delta = [torch.zeros_like(x) for x in images]
            with restored([], list(buffers)):
                for _ in range(inner_iter):
                    for i, x in enumerate(images):
                        assert x.grad is not None  # closure ran the model on it
                        delta[i] = _ascend(delta[i], x.grad, epsilon, inner_lr, norm, unit)
                        if low is not None and high is not None:
                            # A pixel that is out of range stays where it is: it must not leave the ball.
                            least, most = torch.minimum(low, clean[i]), torch.maximum(high, clean[i])
                            delta[i] = (clean[i] + delta[i]).clamp(least, most) - clean[i]
                        x.grad = None
                    move(images, delta, clean)
                    closure()
        finally:
            for x, (required, gradient) in zip(images, before, strict=True):
                x.grad = gradient
                x.requires_grad_(required)
    return result


@torch.no_grad()
def _ascend(
    delta: Tensor, gradient: Tensor, epsilon: float | Tensor, inner_lr: float, norm: str, unit: float | Tensor
) -> Tensor:
    """Return delta after one step and the projection to the ball, both in pixels; `delta` is in the inputs' units."""
    pixels, slope = delta / unit, gradient * unit
    if norm == "linf":
        return (pixels + inner_lr * epsilon * slope.sign()).clamp(-epsilon, epsilon) * unit  # type: ignore[arg-type]
    pixels = pixels + inner_lr * epsilon * slope / (_lengths(slope) + TINY)
    return pixels * ((_lengths(pixels) + TINY).reciprocal() * epsilon).clamp(max=1.0) * unit


def _lengths(images: Tensor) -> Tensor:
    """Return the L2 norm of each image, shaped to broadcast against the images."""
    return torch.linalg.vector_norm(images.flatten(1), dim=1).reshape(-1, *[1] * (images.ndim - 1))
