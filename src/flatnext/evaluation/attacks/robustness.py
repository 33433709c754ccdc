"""Accuracy under attack: how many images have no misclassified neighbour that the attacks could find."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flatnext.errors import InputError
from flatnext.evaluation.attacks.apgd import APGD
from flatnext.evaluation.attacks.attacked_model import AttackedModel, frozen
from flatnext.evaluation.attacks.ball import Ball, Norm
from flatnext.evaluation.attacks.fab import FAB
from flatnext.evaluation.attacks.gradient import PGD, fgsm
from flatnext.evaluation.attacks.search import Attack, Draws
from flatnext.evaluation.attacks.square import Square
from flatnext.evaluation.predictor import Predictor
from flatnext.progress import Progress, silent
from flatnext.runs.evidence import AttackPart, AttackResult
from flatnext.schema import dump


def autoattack(*, steps: int = 100, targets: int = 9, queries: int = 5000) -> tuple[Attack, ...]:
    """Return AutoAttack (arXiv 2003.01690): Auto-PGD on cross-entropy and on targeted DLR, targeted FAB, and Square.

    With the defaults these are the attacks, the order and the settings of the authors' version `standard`; with others
    a figure is no AutoAttack figure. Each attack gets the images that those before have not fooled. What differs from
    the authors' code is in the docstrings of the attacks: each image has its own random numbers, and is not attacked
    any further once it is misclassified, so that its outcome does not depend on the batch. Their warnings of random or
    masked models are not here: see `sanity_checks`. An image that withstands all costs 7,813 passes forward and 1,910
    backward, of which Square's are 5,001. It needs 4 classes.
    """
    return (
        APGD(steps=steps),
        APGD(steps=steps, targets=targets),
        FAB(steps=steps, targets=targets),
        Square(queries=queries, rescale=False),
    )


PRESETS: dict[str, Callable[[], tuple[Attack, ...]]] = {
    "fgsm": lambda: (fgsm(),),
    "pgd": lambda: (PGD(),),
    "autoattack": autoattack,
}
"""Attacks by name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Robustness:
    """The result of an attack, with what became of each image.

    `correct` and `robust` (bool, N) say which images were classified correctly before and after; `images` (N x 3 x H x
    W, in [0, 1], not rounded to 8 bits) has the image that fooled the model where one was found, else the image itself.
    All lie on the CPU.
    """

    result: AttackResult
    correct: Tensor = field(repr=False)
    robust: Tensor = field(repr=False)
    images: Tensor = field(repr=False)


def robustness(
    predictor: Predictor,
    images: Tensor,
    labels: Tensor,
    *,
    attacks: str | Sequence[Attack] = "pgd",
    norm: Norm = "linf",
    budget: float = 8.0,
    seed: int = 0,
    batch_size: int = 100,
    progress: Progress = silent,
) -> Robustness:
    """Return the accuracy of a model on images changed to be misclassified.

    Each attack works on the images that are still classified correctly, and is done with an image as soon as it is
    misclassified. With n images, a clean accuracy a, and robust accuracy r at the end, the cost lies between
    n + n r P and n + n a P passes, P being what the attacks cost an image together, which each says of itself; a
    backward pass computes the gradient of the images alone and costs about as much as a forward one.

    Args:
        predictor: its model is held in evaluation mode and left as it was. In bf16 gradients are less exact, and
            misclassified means by the bf16 model.
        images: N x 3 x H x W, uint8, or floating point in [0, 1]; not normalised.
        labels: int64, N.
        attacks: a name of `PRESETS`, or attacks.
        norm: `linf` or `l2`.
        budget: radius of the ball, in 1/255.
        seed: of the random starts; an image's draws depend on it and the image's index, not on the batch.
        batch_size: images attacked together.
        progress: called with the images done with, over all attacks, and their total.

    Raises:
        InputError: a setting or tensor does not fit.
    """
    ball, sequence = Ball(norm, budget), _attacks_of(attacks) if isinstance(attacks, str) else tuple(attacks)
    if not sequence:
        raise InputError("attacks is empty: give at least one")
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}: give at least 1")
    _check(images, labels)
    start = time.perf_counter()
    with frozen(predictor.model):
        model = AttackedModel(predictor)
        run = _Run(model, pixels(images, model), labels.to(model.device), ball, seed, batch_size)
        correct = run.classify()
        robust, parts = correct.clone(), []
        for stream, attack in enumerate(sequence):
            parts.append(run.attack(attack, stream, robust, _part_of(progress, stream, len(sequence), len(labels))))
    result = AttackResult(
        attack=attacks if isinstance(attacks, str) else "+".join(attack.name for attack in sequence),
        norm=norm,
        budget=float(budget),
        count=len(labels),
        clean_accuracy=int(correct.sum()) / len(labels),
        robust_accuracy=int(robust.sum()) / len(labels),
        precision=predictor.precision,
        seed=seed,
        seconds=time.perf_counter() - start,
        parts=tuple(parts),
    )
    return Robustness(result=result, correct=correct.cpu(), robust=robust.cpu(), images=run.images.cpu())


def _attacks_of(name: str) -> Sequence[Attack]:
    """Return the attacks of a name in `PRESETS`. Raises `InputError` for another."""
    if name not in PRESETS:
        raise InputError(f"attacks is {name!r}: choose {', '.join(PRESETS)}")
    return PRESETS[name]()


class _Run:
    """The images under attack: `images` takes in what fooled the model."""

    def __init__(
        self, model: AttackedModel, images: Tensor, labels: Tensor, ball: Ball, seed: int, batch_size: int
    ) -> None:
        self.model, self.images, self.labels = model, images, labels
        self.ball, self.seed, self.batch_size = ball, seed, batch_size

    def classify(self) -> Tensor:
        """Return which images are classified correctly (bool, N)."""
        logits = torch.cat([self.model.predict(batch) for batch in self.images.split(self.batch_size)])
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= logits.shape[1]:
            raise InputError(f"the model has {logits.shape[1]} classes: give labels from 0 to {logits.shape[1] - 1}")
        if not bool(logits.isfinite().all()):
            raise InputError("the model's outputs are not finite on the clean images: its weights may have diverged")
        return logits.argmax(dim=1) == self.labels

    def attack(self, attack: Attack, stream: int, robust: Tensor, progress: Progress) -> AttackPart:
        """Attack the images that are still `robust` (bool, N), and clear the entries of those that are fooled."""
        start, before = time.perf_counter(), (self.model.forward, self.model.backward)
        attacked, count = int(robust.sum()), len(robust)
        for indices in robust.nonzero().flatten().split(self.batch_size) if attacked else ():
            draws = Draws(self.seed, indices.tolist(), stream)
            outcome = attack(self.model, self.images[indices], self.labels[indices], self.ball, draws)
            fooled = indices[outcome.fooled]
            self.images[fooled] = outcome.images[outcome.fooled]
            robust[fooled] = False
            progress(int(indices[-1]), count)
        progress(count, count)
        return AttackPart(
            name=attack.name,
            settings=dump(attack),
            attacked=attacked,
            fooled=attacked - int(robust.sum()),
            forward=self.model.forward - before[0],
            backward=self.model.backward - before[1],
            seconds=time.perf_counter() - start,
        )


def pixels(images: Tensor, model: AttackedModel) -> Tensor:
    """Return a copy of images (uint8, or in [0, 1]) in [0, 1], in the model's type and on its device."""
    copy = images.to(model.device, model.dtype, copy=True)
    return copy.div_(255) if images.dtype == torch.uint8 else copy


def _part_of(progress: Progress, number: int, parts: int, count: int) -> Progress:
    """Return the progress of one of several parts that have `count` images each."""
    return lambda done, _: progress(number * count + done, parts * count)


def _check(images: Tensor, labels: Tensor) -> None:
    if (
        images.ndim != 4
        or images.shape[1] not in (1, 3)
        or not (images.dtype == torch.uint8 or images.is_floating_point())
    ):
        raise InputError(
            f"images are {images.dtype} {tuple(images.shape)}: give uint8 or floats, N x C x H x W, C 3 or 1"
        )
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1] or len(labels) == 0:
        raise InputError(f"labels are {labels.dtype} {tuple(labels.shape)}: give torch.int64, one an image, at least 1")
    if images.is_floating_point() and not bool(((images >= 0) & (images <= 1)).all()):
        raise InputError("images have pixels outside [0, 1]: give them before normalisation")
