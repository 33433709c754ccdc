"""Scores of a weights file on the data set that it was trained for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flatnext import data
from flatnext.errors import InputError
from flatnext.evaluation.metrics import score
from flatnext.evaluation.trained_model import load_trained_model
from flatnext.schema import dump


def evaluate(
    path: Path | str,
    *,
    checkpoint: str | None = None,
    split: str = "test",
    test_set: Path | str | None = None,
    data_dir: Path | str = ".data",
    device: str = "auto",
    download: bool = True,
    progress: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the scores of the weights at `path` on one split of their data set, and the classes, as JSON has them.

    Args:
        path: a run folder, a weights file of a run, or a checkpoint of the baseline's code (which says nothing of its
            data set and model: CIFAR-10 and ResNeXt-29 unless `overrides` says otherwise); where no such path is, the
            name of weights that ship with the package.
        checkpoint: in a run folder, `last` or `best` (None: `last`).
        split: `test`, `validation` or `train` (the images trained on, not augmented).
        test_set: instead of a split, other images of the same classes: `flatnext.data.read_test_set` says which.
        data_dir: where the data set lies, or is downloaded to.
        device: `auto`, `cpu`, `cuda` …
        download: whether a missing data set may be fetched.
        progress: whether to show a download's progress.
        overrides: settings by name, for `Config.override`.

    Raises:
        InputError: the file, the data or the split is not there, or the weights are of another model.
    """
    if test_set is not None and split != "test":
        raise InputError(f"split is {split!r} and test_set {str(test_set)!r}: give one of them")
    model = load_trained_model(
        path,
        checkpoint=checkpoint,
        data_dir=data_dir,
        device=device,
        download=download,
        progress=progress,
        overrides=overrides,
    )
    images = model.split(split) if test_set is None else model.other_test_set(test_set)
    scores = score(model.predictor(images.images), images.labels)
    return {
        "weights": str(model.weights),
        "split": split if test_set is None else data.test_set_name(test_set),
        "precision": model.predictor.precision,
        **dump(scores),
        "confusion": [list(row) for row in scores.confusion or ()],  # in full, of however many classes
        "classes": model.predictor.classes,
    }
