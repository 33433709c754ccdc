"""The calibration of a model's answers, from its logits on labelled images that it was not trained on.

Half of the images fit the temperature, and the other half give the scores, so that neither has seen the other's.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from flatnext.data import Partition, Split
from flatnext.evaluation.calibration import checked
from flatnext.evaluation.metrics import has_finite_logits
from flatnext.evaluation.temperature import TEMPERATURES, fit_temperature
from flatnext.runs.conformal import Conformal
from flatnext.words import counted


def conformal(logits: Tensor, labels: Tensor, source: str, fitted_on: tuple[Tensor, Tensor] | None = None) -> Conformal:
    """Return the calibration from logits (N x classes) and labels (int64, N) of images that chose nothing.

    `fitted_on` are the logits and labels that the temperature fits, of other images; without them, and where they do
    not fix it, it is 1. `source` says in words which images these are. `InputError`: there are none, or a logit is not
    finite.
    """
    temperature = fit_temperature(*fitted_on) if fitted_on and len(fitted_on[1]) else 1.0
    if temperature in TEMPERATURES:  # the ends of the range: all of the images are right, or no better than chance
        temperature = 1.0
    return Conformal.of(scores(logits, labels, temperature).tolist(), temperature=temperature, source=source)


def scores(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return 1 - p(label) of each image (float64, N), with the probabilities after the temperature."""
    logits, labels = checked(logits, labels)
    return -(logits / temperature).log_softmax(dim=1).gather(1, labels[:, None]).squeeze(1).expm1()


def after_training(partition: Partition, *, validation: Tensor | None, calibration: Tensor | None) -> Conformal | None:
    """Return the calibration by the held-out images of a run, given the logits of its splits, where there are some.

    With images held out for calibration these give the scores, and the validation images fit the temperature. Without
    them the validation images do both, each half one, which needs weights that they have not chosen. None: there are
    too few images, or a logit is not finite.
    """
    if calibration is None or partition.calibration is None:
        if validation is None or partition.validation is None:
            return None
        return in_halves(partition.validation, validation, "validation images")
    if validation is None or partition.validation is None:
        return in_halves(partition.calibration, calibration, "images held out for calibration")
    if not all(bool(has_finite_logits(logits).all()) for logits in (validation, calibration)):
        return None
    labels = partition.calibration.labels.cpu()
    source = f"{counted(len(labels), 'image')} held out for calibration; the validation images fit the temperature"
    return conformal(calibration, labels, source, fitted_on=(validation, partition.validation.labels.cpu()))


def in_halves(split: Split, logits: Tensor, source: str) -> Conformal | None:
    """Return the calibration by one half of a split, with the temperature that fits the other half.

    `source` names the images. None: there are too few for two halves, or a logit is not finite.
    """
    if not bool(has_finite_logits(logits).all()):
        return None
    first = first_half(split)
    labels = split.labels.cpu()
    count = int((~first).sum())
    if count == 0:
        return None
    named = f"{count:,} of the {len(split):,} {source}; the others fit the temperature"
    return conformal(logits[~first], labels[~first], named, fitted_on=(logits[first], labels[first]))


def first_half(split: Split) -> Tensor:
    """Return which images (bool, N) are in the first of two halves.

    An image is there by a hash of its pixels alone: whatever images are added, it stays, and images that are equal are
    in the same half.
    """
    digests = (hashlib.sha256(image.cpu().contiguous().numpy().data).digest() for image in split.images)
    return torch.tensor([digest[0] < 128 for digest in digests], dtype=torch.bool)
