"""Taking the fingerprint of data."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch

from flatnext.data.dataset import Partition, Split
from flatnext.runs.fingerprint import DataFingerprint, ImagesFingerprint, change

CHUNK = 100
"""Images that are hashed at a time."""


def fingerprint(partition: Partition) -> DataFingerprint:
    """Return the fingerprint of a data set as it is divided for a run."""
    count = len(partition.classes)
    validation, calibration = (
        None if split is None else fingerprint_images(split, count)
        for split in (partition.validation, partition.calibration)
    )
    return DataFingerprint(
        classes=tuple(partition.classes),
        train=fingerprint_images(partition.train, count),
        validation=validation,
        test=fingerprint_images(partition.test, count),
        calibration=calibration,
    )


def change_of_test(before: DataFingerprint, test: Split) -> str | None:
    """Return in words how test images are not those of a fingerprint, whose classes they have; None: they are."""
    return change(before, replace(before, test=fingerprint_images(test, len(before.classes))), "test")


def fingerprint_images(split: Split, classes: int) -> ImagesFingerprint:
    """Return the fingerprint of a split whose labels are below `classes`."""
    digest = hashlib.sha256(repr(tuple(split.images.shape)).encode())
    for images in split.images.split(CHUNK):
        digest.update(images.contiguous().cpu().numpy().data)
    labels = split.labels.cpu()
    digest.update(labels.contiguous().numpy().data)
    return ImagesFingerprint(
        counts=tuple(torch.bincount(labels, minlength=classes).tolist()), sha256=digest.hexdigest()
    )
