"""Exact metrics from logits: the network runs once, everything else is counted from its output."""

from __future__ import annotations

import base64
import io

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from flatnext.data import Split
from flatnext.runs.scores import Mistake, Scores


def score(logits: Tensor, labels: Tensor) -> Scores:
    """Return the scores of logits (N x classes) against labels (N)."""
    labels = labels.cpu()
    logits = logits.double()
    classes = logits.shape[1]
    predicted = logits.argmax(dim=1)
    confusion = torch.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    return Scores(
        loss=float(F.cross_entropy(logits, labels)),
        accuracy=int((predicted == labels).sum()) / len(labels),
        count=len(labels),
        confusion=tuple(map(tuple, confusion.tolist())),
    )


def most_confident_errors(logits: Tensor, split: Split, most: int = 24) -> tuple[Mistake, ...]:
    """Return the `most` misclassified images of highest confidence, highest first.

    `logits` (N x classes) are those of the images of `split`.
    """
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    wrong = (predicted != split.labels.cpu()).nonzero().flatten()
    order = confidence[wrong].argsort(descending=True, stable=True)
    return tuple(
        Mistake(
            index=i,
            label=int(split.labels[i]),
            predicted=int(predicted[i]),
            confidence=float(confidence[i]),
            png=base64.b64encode(png(split.images[i])).decode(),
        )
        for i in wrong[order][:most].tolist()
    )


def png(image: Tensor) -> bytes:
    """Return one uint8 image (3 x H x W) as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy()).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
