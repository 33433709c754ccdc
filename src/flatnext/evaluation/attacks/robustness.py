"""Accuracy under attack: how many images have no misclassified neighbour that the attacks could find."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from flatnext.errors import InputError
from flatnext.evaluation.attacks.ball import Ball, Norm
from flatnext.evaluation.attacks.presets import attacks_of
from flatnext.evaluation.attacks.search import Attack, Draws
from flatnext.evaluation.attacks.target import Target, attackable

Progress = Callable[[int, int], object]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one attack did: of the `attacked` images, those right until then, it `fooled` some.

    `forward` and `backward` are images that went through the model, `seconds` the time. `settings` hold all else.
    """

    name: str
    settings: dict[str, Any]
    attacked: int
    fooled: int
    forward: int
    backward: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the figures as a dict that `json` can write."""
        return dict(self.__dict__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Robustness:
    """Accuracy on `count` images, as they are and under attack, with what it took.

    `robust_accuracy` is an upper bound of the accuracy against the worst change within the budget: attacks may miss
    it. `budget` is in 1/255 of the range of a pixel. `correct` and `robust` (bool, N) say which images were
    classified correctly before and after; `images` (N x 3 x H x W, in [0, 1], not rounded to 8 bits) has the image
    that fooled the model where one was found, else the image itself. The three lie on the CPU and not in the JSON.
    """

    attack: str
    norm: Norm
    budget: float
    count: int
    clean_accuracy: float
    robust_accuracy: float
    precision: str
    seed: int
    seconds: float
    parts: tuple[Part, ...]
    correct: Tensor = field(repr=False)
    robust: Tensor = field(repr=False)
    images: Tensor = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the figures as a dict that `json` can write."""
        content = {k: v for k, v in self.__dict__.items() if not isinstance(v, Tensor)}
        return content | {"parts": [part.to_json() for part in self.parts]}


def robustness(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    attacks: str | Sequence[Attack] = "pgd",
    norm: Norm = "linf",
    budget: float = 8.0,
    seed: int = 0,
    batch_size: int = 100,
    precision: str = "fp32",
    channels_last: bool = True,
    progress: Progress | None = None,
) -> Robustness:
    """Return the accuracy of `model` on images changed to be misclassified.

    Each attack works on the images that are still classified correctly, and each image is left alone as soon as it is
    misclassified. With n images, a clean accuracy a, and robust accuracy r at the end, the cost lies between
    n + n r P and n + n a P passes, P being the sum of the attacks' `passes()`; a pass backward goes to the images
    alone and costs about as much as one forward.

    Args:
        model: on its device, in the type of `precision`; it is held in evaluation mode and left as it was.
        images: N x 3 x H x W, uint8, or floating point in [0, 1]; not normalised.
        labels: int64, N.
        mean: of the normalisation, a channel each, for pixels in [0, 1].
        std: of the normalisation.
        attacks: a name of `PRESETS`, or attacks.
        norm: `linf` or `l2`.
        budget: radius of the ball, in 1/255.
        seed: of the random starts; an image's draws depend on it and the image's index, not on the batch.
        batch_size: images attacked together.
        precision: `fp32`, `fp64`, or `bf16`: forward under autocast, faster, with gradients that are less exact, and
            misclassified means by the bf16 model.
        channels_last: whether the inputs lie so in memory.
        progress: called with the images done with, over all attacks, and their total.

    Raises:
        InputError: a setting or tensor does not fit.
    """
    ball, chosen = Ball(norm, budget), attacks_of(attacks) if isinstance(attacks, str) else tuple(attacks)
    if not chosen:
        raise InputError("attacks is empty: give at least one")
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}: give at least 1")
    _check(images, labels)
    start = time.perf_counter()
    with attackable(model):
        target = Target(model, mean=mean, std=std, precision=precision, channels_last=channels_last)
        work = _Work(target, _pixels(images, target), labels.to(target.device), ball, seed, batch_size)
        correct = work.classify()
        robust, parts = correct.clone(), []
        for stream, attack in enumerate(chosen):
            report = None if progress is None else _shifted(progress, stream * len(labels), len(chosen) * len(labels))
            parts.append(work.attack(attack, stream, robust, report))
    return Robustness(
        attack=attacks if isinstance(attacks, str) else "+".join(attack.name for attack in chosen),
        norm=norm,
        budget=float(budget),
        count=len(labels),
        clean_accuracy=int(correct.sum()) / len(labels),
        robust_accuracy=int(robust.sum()) / len(labels),
        precision=precision,
        seed=seed,
        seconds=time.perf_counter() - start,
        parts=tuple(parts),
        correct=correct.cpu(),
        robust=robust.cpu(),
        images=work.images.cpu(),
    )


class _Work:
    """The images under attack: `images` takes in what fooled the model."""

    def __init__(self, target: Target, images: Tensor, labels: Tensor, ball: Ball, seed: int, batch_size: int) -> None:
        self.target, self.images, self.labels = target, images, labels
        self.ball, self.seed, self.batch_size = ball, seed, batch_size

    def classify(self) -> Tensor:
        """Return which images are classified correctly (bool, N)."""
        answers = [self.target.answer(batch) for batch in self.images.split(self.batch_size)]
        logits = torch.cat(answers)
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= logits.shape[1]:
            raise InputError(f"the model has {logits.shape[1]} classes: give labels from 0 to {logits.shape[1] - 1}")
        if not bool(logits.isfinite().all()):
            raise InputError("the model's outputs are not finite on the clean images: its weights may have diverged")
        return logits.argmax(dim=1) == self.labels

    def attack(self, attack: Attack, stream: int, robust: Tensor, progress: Progress | None) -> Part:
        """Attack the `robust` images (bool, N), and strike those that are fooled off."""
        start, before = time.perf_counter(), (self.target.forward, self.target.backward)
        attacked, count = int(robust.sum()), len(robust)
        for indices in robust.nonzero().flatten().split(self.batch_size) if attacked else ():
            draws = Draws(self.seed, indices.tolist(), stream)
            outcome = attack(self.target, self.images[indices], self.labels[indices], self.ball, draws)
            fooled = indices[outcome.fooled]
            self.images[fooled] = outcome.images[outcome.fooled]
            robust[fooled] = False
            if progress is not None:
                progress(int(indices[-1]), count)
        if progress is not None:
            progress(count, count)
        return Part(
            name=attack.name,
            settings=attack.to_json(),
            attacked=attacked,
            fooled=attacked - int(robust.sum()),
            forward=self.target.forward - before[0],
            backward=self.target.backward - before[1],
            seconds=time.perf_counter() - start,
        )


def _shifted(progress: Progress, by: int, total: int) -> Progress:
    return lambda done, _: progress(by + done, total)


def _check(images: Tensor, labels: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise InputError(f"images are {images.dtype} {tuple(images.shape)}: give uint8 or floats, N x 3 x H x W")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1] or len(labels) == 0:
        raise InputError(f"labels are {labels.dtype} {tuple(labels.shape)}: give torch.int64, one an image, at least 1")
    if images.is_floating_point() and not bool(((images >= 0) & (images <= 1)).all()):
        raise InputError("images have pixels outside [0, 1]: give them before normalisation")


def _pixels(images: Tensor, target: Target) -> Tensor:
    """Return a copy of the images in [0, 1], in the target's type and on its device."""
    pixels = images.to(target.device, target.dtype, copy=True)
    return pixels.div_(255) if images.dtype == torch.uint8 else pixels
