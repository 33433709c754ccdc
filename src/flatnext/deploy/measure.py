"""Scores of weights as they are stored, beside those of the weights as they were trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flatnext import data, evaluation, models
from flatnext.device import keep_memory, machine, place
from flatnext.errors import InputError
from flatnext.runs.evidence import Calibration
from flatnext.runs.records import Machine
from flatnext.runs.scores import Scores
from flatnext.words import counted

FIRST = 1000  # images of the quick check that the index allows
MOST_CHANGE = 0.001  # share of the images by which rounding may change the number of correct ones; at least one
PRECISION = "fp32"  # of every evaluation here, so that another machine gets the same figures
RETRAIN = "choose another --checkpoint, or train again with a lower --lr"
ABOVE_CHANCE = 3  # standard errors above chance, below which there is a remark


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Scores and calibration of the stored weights on the whole test set, in fp32.

    `trained_accuracy` is that of the weights before they were rounded. `changed` images are classified differently by
    the two, and the numbers of correct ones may differ by `limit`. Of the first `first_count` test images
    `first_correct` are classified correctly.
    """

    scores: Scores
    calibration: Calibration
    trained_accuracy: float
    changed: int
    limit: int
    first_count: int
    first_correct: int
    machine: Machine


def near_chance(scores: Scores) -> str:
    """Return a remark on an accuracy that is not three standard errors above chance, and an empty text if it is.

    Chance is the share of the most common class: the accuracy of always predicting it. The standard error is that of a
    binomial with this share.
    """
    assert scores.confusion is not None
    chance = max(map(sum, scores.confusion)) / scores.count
    error = math.sqrt(chance * (1 - chance) / scores.count)
    if scores.accuracy > chance + ABOVE_CHANCE * error:
        return ""
    return (
        f"No better than guessing, as far as {counted(scores.count, 'test image')} can tell: the accuracy of "
        f"{scores.accuracy:.2%} is not {ABOVE_CHANCE} standard errors (of {error:.2%}) above {chance:.2%}, which "
        "always predicting the most common class gives"
    )


def measure(
    trained: dict[str, Tensor],
    stored: dict[str, Tensor],
    origin: models.Origin,
    test: data.Split,
    device: torch.device,
    source: str,
) -> Measured:
    """Evaluate trained and stored weights on the test images; `source` is what an error names.

    Raises `InputError` if the number of correct images differs by more than a thousandth of them, and by more than one.
    """
    keep_memory()
    before, after = (_predictor(state, origin, device, source)(test.images) for state in (trained, stored))
    old, new = evaluation.score(before, test.labels), evaluation.score(after, test.labels)
    for scores, which in ((old, "trained"), (new, "stored")):
        if scores.loss is None:
            raise InputError(
                f"{source}: the loss of the {which} weights is not finite: they cannot be packed; {RETRAIN}"
            )
    correct = evaluation.is_correct(after, test.labels)
    limit = max(1, int(MOST_CHANGE * len(test)))
    difference = abs(round((new.accuracy - old.accuracy) * len(test)))
    if difference > limit:
        raise InputError(
            f"{source}: float16 changes the accuracy from {old.accuracy:.2%} to {new.accuracy:.2%}, by {difference} of "
            f"{counted(len(test), 'image')} where {limit} may change: weights so sensitive cannot be packed"
        )
    return Measured(
        scores=new,
        calibration=evaluation.calibration(after, test.labels),
        trained_accuracy=old.accuracy,
        changed=int((before.argmax(dim=1) != after.argmax(dim=1)).sum()),
        limit=limit,
        first_count=len(correct[:FIRST]),
        first_correct=int(correct[:FIRST].sum()),
        machine=machine(device),
    )


def _predictor(
    state: dict[str, Tensor], origin: models.Origin, device: torch.device, source: str
) -> evaluation.Predictor:
    layout = origin.config.channels_last
    model = models.restore(origin.config.model, len(origin.classes), state, source)
    place(model, device, PRECISION, channels_last=layout)
    return evaluation.Predictor(
        model=model,
        classes=origin.classes,
        normalization=origin.normalization,
        device=device,
        precision=PRECISION,
        channels_last=layout,
    )
