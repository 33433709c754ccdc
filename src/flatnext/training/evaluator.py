"""Scores of a run's model on the images held out for choosing and on the test images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from flatnext.data import Partition, Split
from flatnext.evaluation import Predictor, most_confident_errors, score
from flatnext.evaluation.conformal import after_training
from flatnext.processes import ALONE, Processes
from flatnext.runs.class_balance import balanced_accuracy, is_uneven
from flatnext.runs.conformal import Conformal
from flatnext.runs.records import CheckpointScores
from flatnext.runs.scores import Mistake, Scores


class Final(NamedTuple):
    """What is known of weights at the end: their scores, most confident errors, and calibration (None: no images)."""

    scores: CheckpointScores
    mistakes: tuple[Mistake, ...]
    conformal: Conformal | None


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Scores the predictor's model, as it is at the time of the call, on the splits of its data.

    The validation split chooses the best epoch (`better`); the test split chooses nothing. `interrupt` is called after
    each batch: what it raises ends the evaluation.
    """

    predictor: Predictor
    partition: Partition
    processes: Processes = ALONE
    interrupt: Callable[[], object] | None = None

    def predict(self, split: Split) -> torch.Tensor:
        """Return the logits of a split's images. Each process computes its share; all get the whole."""
        predictor = replace(self.predictor)  # a fresh inference copy, as the weights have changed
        if self.processes.count == 1:
            return predictor(split.images, progress=lambda *_: self.interrupt() if self.interrupt else None)
        share = self.processes.share(torch.arange(len(split)))
        logits = predictor(split.select(share).images).to(predictor.device)
        whole = logits.new_zeros(len(split), logits.shape[1])
        whole[share.to(predictor.device)] = logits
        self.processes.sum([whole])
        return whole.cpu()

    def validation(self) -> Scores | None:
        """Return the scores on the validation split, without a confusion matrix; None if there is no such split."""
        split = self.partition.validation
        return None if split is None else _without_confusion(self.predict(split), split)

    def test(self) -> Scores:
        """Return the scores on the test split."""
        return score(self.predict(self.partition.test), self.partition.test.labels)

    def final(self, epoch: int) -> Final:
        """Return what is known of the last weights, those after `epoch`."""
        validation, test = self.partition.validation, self.partition.test
        held_out = None if validation is None else self.predict(validation)
        logits = self.predict(test)
        scores = CheckpointScores(
            epoch=epoch,
            validation=None if validation is None or held_out is None else _without_confusion(held_out, validation),
            test=score(logits, test.labels),
        )
        return Final(scores, most_confident_errors(logits, test), self._conformal(held_out))

    def conformal_of_best(self) -> Conformal | None:
        """Return the calibration of weights that validation images have chosen; None without images for it alone."""
        if self.partition.calibration is None:
            return None
        validation = self.partition.validation
        return self._conformal(None if validation is None else self.predict(validation))

    def _conformal(self, validation: torch.Tensor | None) -> Conformal | None:
        """Return the calibration, given the logits of the validation images, where there are some."""
        calibration = self.partition.calibration
        return after_training(
            self.partition,
            validation=validation,
            calibration=None if calibration is None else self.predict(calibration),
        )


def _without_confusion(logits: torch.Tensor, split: Split) -> Scores:
    scores = score(logits, split.labels)
    assert scores.confusion is not None
    balanced = balanced_accuracy(scores.confusion) if is_uneven(scores.confusion) else None
    return replace(scores, confusion=None, balanced_accuracy=balanced)


ROUNDING = 1e-12
"""Accuracies that differ by less are the same: a mean of fractions is rounded."""


def better(new: Scores, old: Scores | None) -> bool:
    """Return whether the accuracy is higher than in `old`, or as high with a lower loss.

    Of uneven classes it is the balanced accuracy, unless `old` is of an earlier version, which does not have it.
    """
    if old is None:
        return True
    gain = new.accuracy - old.accuracy
    if new.balanced_accuracy is not None and old.balanced_accuracy is not None:
        gain = new.balanced_accuracy - old.balanced_accuracy
    if abs(gain) > ROUNDING:
        return gain > 0
    losses = [math.inf if s.loss is None or math.isnan(s.loss) else s.loss for s in (new, old)]
    return losses[0] < losses[1]
