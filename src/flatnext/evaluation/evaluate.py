"""Scores of a weights file on the data set that it was trained for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flatnext import data, models
from flatnext.errors import InputError
from flatnext.evaluation.metrics import score
from flatnext.evaluation.predictor import Predictor, load_predictor
from flatnext.evaluation.trained_model import check_split, load_trained_model, other_images
from flatnext.runs.class_balance import balanced_accuracy
from flatnext.runs.folder import known_data_dir
from flatnext.runs.scores import Confusion
from flatnext.schema import dump


def evaluate(
    path: Path | str,
    *,
    checkpoint: str | None = None,
    split: str = "test",
    test_set: Path | str | None = None,
    data_dir: Path | str | None = None,
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
        data_dir: where the data set lies, or is downloaded to (None: where it lay when the run was trained, or
            `.data`).
        device: `auto`, `cpu`, `cuda` …
        download: whether a missing data set may be fetched.
        progress: whether to show a download's progress.
        overrides: settings by name, for `Config.override`.

    Raises:
        InputError: the file, the data or the split is not there, or the weights are of another model.
    """
    check_split(split)
    if test_set is not None and split != "test":
        raise InputError(f"split is {split!r} and test_set {str(test_set)!r}: give one of them")
    given: dict[str, Any] = {"checkpoint": checkpoint, "device": device, "overrides": overrides}
    alone = _without_data(path, test_set, given)
    if alone is None:
        if data_dir is None:
            data_dir = known_data_dir(path, (overrides or {}).get("dataset")) or ".data"
        model = load_trained_model(path, data_dir=data_dir, download=download, progress=progress, **given)
        images = model.split(split) if test_set is None else model.other_test_set(test_set)
        weights, predictor = model.weights, model.predictor
    else:
        weights, predictor, images = alone
    scores = score(predictor(images.images), images.labels)
    return {
        "weights": str(weights),
        "split": split if test_set is None else data.test_set_name(test_set),
        "precision": predictor.precision,
        **dump(scores),
        "balanced_accuracy": balanced_accuracy(scores.confusion or Confusion()),
        "confusion": [list(row) for row in scores.confusion or ()],  # in full, of however many classes
        "classes": predictor.classes,
    }


def _without_data(
    path: Path | str, test_set: Path | str | None, given: Mapping[str, Any]
) -> tuple[Path, Predictor, data.Split] | None:
    """Return a weights file, its predictor and another test set, for which the data trained on are of no use.

    None where they are: there is no such test set, or the file does not say its classes.
    """
    if test_set is None:
        return None
    weights = models.find_weights(path, given["checkpoint"])
    origin = models.origin_of(weights)
    if origin is None:
        return None
    predictor = load_predictor(weights, device=given["device"], overrides=given["overrides"])
    settings = origin.config.override(given["overrides"] or {}).data
    images = other_images(
        test_set,
        weights,
        classes=origin.classes,
        image_size=settings.image_size or origin.side,
        channels=len(origin.normalization.mean),
        resize=settings.resize,
        skip_damaged=settings.skip_damaged,
    )
    return weights, predictor, images
