"""What weights are worth as they are stored, beside what they were worth as they were trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flatnext import data, evaluation, models
from flatnext.device import device_name, keep_memory, place
from flatnext.errors import InputError
from flatnext.runs.evidence import Calibration
from flatnext.runs.scores import Scores

FIRST = 1000  # images of the quick check
MOST_CHANGE = 0.001  # of the images; the rounding may change the number of correct ones by so many, or by one
PRECISION = "fp32"  # of every evaluation here, so that another machine finds the same figures
ABOVE_CHANCE = 3  # standard errors by which an accuracy is above chance, or there is a remark


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Scores and calibration of the stored weights on the whole test set, in fp32.

    `trained_accuracy` is that of the weights before they were rounded, `changed` the number of images that the two
    classify differently. Of the `first_count` first test images `first_correct` are classified correctly.
    """

    scores: Scores
    calibration: Calibration
    trained_accuracy: float
    changed: int
    limit: int
    first_count: int
    first_correct: int
    device: str
    torch: str


def near_chance(scores: Scores) -> str:
    """Return a remark on an accuracy that is not three standard errors above chance; nothing (empty) if it is.

    Chance is the share of the most common class, which always answering it gives; the standard error is that of a
    binomial with this share.
    """
    chance = max(map(sum, scores.confusion)) / scores.count
    error = math.sqrt(chance * (1 - chance) / scores.count)
    if scores.accuracy > chance + ABOVE_CHANCE * error:
        return ""
    return (
        f"No better than guessing, as far as {scores.count:,} test images can tell: the accuracy of "
        f"{scores.accuracy:.2%} is not {ABOVE_CHANCE} standard errors (of {error:.2%}) above {chance:.2%}, which "
        "always answering the most common class gives"
    )


def measure(
    trained: dict[str, Tensor],
    stored: dict[str, Tensor],
    origin: models.Origin,
    test: data.Split,
    device: torch.device,
    source: str,
) -> Measured:
    """Evaluate both. `InputError`: the number of correct images differs by more than a thousandth of them, and one."""
    keep_memory()
    before, after = (_logits(state, origin, test, device, source) for state in (trained, stored))
    old, new = evaluation.score(before, test.labels), evaluation.score(after, test.labels)
    hits = after.argmax(dim=1) == test.labels
    limit = max(1, int(MOST_CHANGE * len(test)))
    difference = abs(int(hits.sum()) - int((before.argmax(dim=1) == test.labels).sum()))
    if difference > limit:
        raise InputError(
            f"{source}: float16 changes the accuracy from {old.accuracy:.2%} to {new.accuracy:.2%}, by {difference} of "
            f"{len(test):,} images where {limit} may change: weights so sensitive cannot be packed"
        )
    return Measured(
        scores=new,
        calibration=evaluation.calibration(after, test.labels),
        trained_accuracy=old.accuracy,
        changed=int((before.argmax(dim=1) != after.argmax(dim=1)).sum()),
        limit=limit,
        first_count=len(hits[:FIRST]),
        first_correct=int(hits[:FIRST].sum()),
        device=device_name(device),
        torch=torch.__version__,
    )


def _logits(
    state: dict[str, Tensor], origin: models.Origin, test: data.Split, device: torch.device, source: str
) -> Tensor:
    layout = origin.config.channels_last
    model = models.restore(origin.config.model, len(origin.classes), state, source)
    place(model, device, PRECISION, channels_last=layout)
    predictor = evaluation.Predictor(
        model=model,
        classes=origin.classes,
        normalization=origin.normalization,
        device=device,
        precision=PRECISION,
        channels_last=layout,
    )
    return predictor(test.images)
