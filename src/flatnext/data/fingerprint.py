"""Taking the fingerprint of data."""

from __future__ import annotations

import hashlib

import torch

from flatnext.data.dataset import Partition, Split
from flatnext.runs.fingerprint import DataFingerprint, ImagesFingerprint

CHUNK = 1000
"""Images that are hashed at a time."""


def fingerprint(partition: Partition) -> DataFingerprint:
    """Return the fingerprint of a data set as it is divided for a run."""
    count, validation = len(partition.classes), partition.validation
    return DataFingerprint(
        classes=tuple(partition.classes),
        train=_images(partition.train, count),
        validation=None if validation is None else _images(validation, count),
        test=_images(partition.test, count),
    )


def _images(split: Split, classes: int) -> ImagesFingerprint:
    digest = hashlib.sha256(repr(tuple(split.images.shape)).encode())
    for images in split.images.split(CHUNK):
        digest.update(images.contiguous().cpu().numpy())
    labels = split.labels.cpu()
    digest.update(labels.contiguous().numpy())
    return ImagesFingerprint(
        counts=tuple(torch.bincount(labels, minlength=classes).tolist()), sha256=digest.hexdigest()
    )
