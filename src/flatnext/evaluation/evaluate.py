"""Scores of a weights file on the data set that it was trained for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flatnext import data, models
from flatnext.config import Config
from flatnext.device import place, resolve_device, resolve_precision
from flatnext.errors import InputError
from flatnext.evaluation.metrics import predict, score


def evaluate(
    path: Path | str,
    *,
    checkpoint: str | None = None,
    split: str = "test",
    data_dir: Path | str = ".data",
    device: str = "auto",
    download: bool = True,
    progress: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return loss, accuracy, count, confusion and classes of the weights at `path` on one split of their data set.

    Args:
        path: a run folder, a weights file of a run, or a checkpoint of the report's code (which says nothing of its
            data set and model: CIFAR-10 and ResNeXt-29 unless `overrides` says otherwise); where no such path is, the
            name of weights that ship with the package.
        checkpoint: in a run folder, `last` or `best` (None: `last`).
        split: `test`, `validation` or `train` (the images trained on, not augmented).
        data_dir: where the data set lies, or is downloaded to.
        device: `auto`, `cpu`, `cuda` …
        download: whether a missing data set may be fetched.
        progress: whether to show a download's progress.
        overrides: settings by name, for `Config.override`.

    Raises:
        InputError: the file, the data or the split is not there, or the weights are of another model.
    """
    if split not in ("test", "validation", "train"):
        raise InputError(f"split is {split!r}: choose test, validation or train")
    weights = models.find_weights(path, checkpoint)
    state, metadata = models.read_weights(weights)
    origin = models.read_origin(metadata, weights)
    if split != "test" and origin is None:
        raise InputError(f"{weights} does not say which images it was trained on: evaluate it on --split test")
    config = (origin.config if origin else Config(recipe="unknown")).override(overrides or {})
    dataset = data.load(
        config.data.dataset, Path(data_dir), image_size=config.data.image_size, download=download, progress=progress
    )
    known = origin.classes if origin else dataset.classes
    if known != tuple(dataset.classes):
        raise InputError(f"{weights} knows the classes {', '.join(known)}; the data has {', '.join(dataset.classes)}")
    images: data.Split | None = dataset.test
    if split != "test":
        partition = data.partition(dataset, config.data)
        images = partition.train if split == "train" else partition.validation
    if images is None:
        raise InputError(f"{path} was trained without a validation split: evaluate on --split test")
    where = resolve_device(device)
    precision = resolve_precision(config.precision, where)
    model = models.build(config.model, len(dataset.classes))
    place(model, where, precision, channels_last=config.channels_last)
    models.assign_weights(model, state, weights)
    logits = predict(
        model,
        images,
        mean=origin.mean if origin else dataset.mean,
        std=origin.std if origin else dataset.std,
        device=where,
        precision=precision,
        channels_last=config.channels_last,
    )
    scores = score(logits, images.labels).to_json()
    return {"weights": str(weights), "split": split, "precision": precision, **scores, "classes": dataset.classes}
