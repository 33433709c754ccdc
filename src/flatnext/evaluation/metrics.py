"""Exact metrics from logits: the network runs once, everything else is counted from its output."""

from __future__ import annotations

import base64
import io
import math

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from flatnext.data import Split
from flatnext.runs.scores import Confusion, Mistake, Scores


def score(logits: Tensor, labels: Tensor) -> Scores:
    """Return the scores of logits (N x classes) against labels (N).

    An image with a logit that is not finite is classified wrongly: in the confusion matrix it stands beside its class,
    so that each row still has all images of a class.
    """
    labels = labels.cpu()
    logits = logits.double()
    classes = logits.shape[1]
    finite = has_finite_logits(logits)
    predicted = torch.where(finite, logits.argmax(dim=1), (labels + 1) % classes)
    confusion = torch.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    loss = float(F.cross_entropy(logits, labels))
    return Scores(
        loss=loss if math.isfinite(loss) else None,
        accuracy=int(is_correct(logits, labels).sum()) / len(labels),
        count=len(labels),
        not_finite=int((~finite).sum()),
        confusion=Confusion.of(confusion.tolist()),
    )


def is_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return which images (bool, N) have the largest of their logits (N x classes), all finite, at their label (N)."""
    return (logits.argmax(dim=1) == labels) & has_finite_logits(logits)


def has_finite_logits(logits: Tensor) -> Tensor:
    """Return of which images (bool, N) all logits (N x classes) are finite."""
    return logits.isfinite().all(dim=1)


def most_confident_errors(logits: Tensor, split: Split, most: int = 24) -> tuple[Mistake, ...]:
    """Return the `most` misclassified images of highest confidence, highest first.

    `logits` (N x classes) are those of the images of `split`. Where one is not finite, there is no confidence.
    """
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    wrong = ((predicted != split.labels.cpu()) & has_finite_logits(logits)).nonzero().flatten()
    order = confidence[wrong].argsort(descending=True, stable=True)
    return tuple(
        Mistake(
            index=i,
            label=int(split.labels[i]),
            predicted=int(predicted[i]),
            confidence=float(confidence[i]),
            png=base64.b64encode(png(split.images[i])).decode(),
            file=split.names[i] if split.names else None,
        )
        for i in wrong[order][:most].tolist()
    )


def png(image: Tensor) -> bytes:
    """Return one uint8 image (3 x H x W, or 1 x H x W for grey) as a PNG file."""
    buffer = io.BytesIO()
    pixels = image.permute(1, 2, 0) if len(image) == 3 else image[0]
    Image.fromarray(pixels.contiguous().cpu().numpy()).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
