"""Exact metrics from logits: the network runs once, everything else is counted from its output."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from flatnext.data import Normalization, Split, batches
from flatnext.device import autocast, dtype
from flatnext.models import answering_form
from flatnext.runs.scores import Mistake, Scores


def predict(
    model: nn.Module,
    split: Split,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    precision: str = "fp32",
    channels_last: bool = True,
    batch_size: int | None = None,
) -> Tensor:
    """Return the logits (N x classes, on the CPU) of every image of `split`, none padded, none dropped.

    The model runs in evaluation mode, on a CPU in its faster form (`models.answering_form`), and is left in the mode it
    was in. `mean` and `std` are those it was trained with. `batch_size` None is 125 on a CPU, whose caches are small,
    and 500 elsewhere.
    """
    was_training = model.training
    model.eval()
    outputs = []
    try:
        with torch.inference_mode():
            answer = answering_form(model, precision)
            for images, _ in batches(
                split,
                batch_size=batch_size or (125 if device.type == "cpu" else 500),
                normalization=Normalization(tuple(mean), tuple(std)),
                device=device,
                dtype=dtype(precision),
                channels_last=channels_last,
            ):
                with autocast(precision, device):
                    outputs.append(answer(images).to(dtype(precision)))
    finally:
        model.train(was_training)
    return torch.cat(outputs).cpu()


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
