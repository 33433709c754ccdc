"""Asking two models about the same labelled images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flatnext import data, models
from flatnext.deploy.classifier import BATCH_SIZE, Classifier, chunks
from flatnext.deploy.comparison import Comparison
from flatnext.deploy.loading import load
from flatnext.errors import InputError
from flatnext.evaluation.trained_model import other_images
from flatnext.progress import Display, Progress
from flatnext.words import counted, shortened


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """A comparison, with the images as the new model saw them: uint8, N x C x H x W, and their names, if they have."""

    comparison: Comparison
    split: data.Split


def compare(
    old: Path | str,
    new: Path | str,
    *,
    test_set: Path | str | None = None,
    dataset: str | None = None,
    data_dir: Path | str = ".data",
    device: str = "auto",
    download: bool = True,
    display: Display | None = None,
) -> Compared:
    """Ask two models about the same images, and return their answers side by side.

    Args:
        old: run folder, weights file, .onnx file, or the name of weights that ship.
        new: the same.
        test_set: labelled images, as `flatnext.data.read_test_set` reads them.
        dataset: instead of them, the test images of the data set of this name (None: that of the old model).
        data_dir: where that lies, or is downloaded to.
        device: `auto`, `cpu`, `cuda` ...
        download: whether a missing data set may be fetched.
        display: where progress is shown (None: nowhere).

    Raises:
        InputError: a model or the images cannot be read, or the classes of the models are different ones.
    """
    if test_set is not None and dataset is not None:
        raise InputError(f"test_set is {str(test_set)!r} and dataset {dataset!r}: give one of them")
    display = display or Display()
    before, after = load(old, device=device), load(new, device=device)
    places = _same_classes(before, after)
    notes = []
    if before.classes != after.classes:
        notes.append("The classes are in another order in the new model. They are matched by their names.")
    if before.preprocessing != after.preprocessing:
        notes.append("The models take images of different sizes or forms. Each got the images as it takes them.")
    dataset = dataset or (None if test_set is not None else _dataset_of(old, before))
    skip_damaged = _skips_damaged(before) or _skips_damaged(after)

    def read(model: Classifier) -> tuple[str, data.Split]:
        """Return the images as a model takes them, with labels that index the old model's classes, and their name."""
        how, classes = asdict(model.preprocessing) | {"skip_damaged": skip_damaged}, before.classes
        if test_set is None:
            return _test_images(dataset or "", classes, how, data_dir, download, display)
        images = other_images(test_set, old, new, classes=classes, **how)
        return f"{counted(len(images), 'image')} of {data.test_set_name(test_set)}", images

    source, images = read(before)
    notes += _changed(old, dataset, images)
    with display.task(f"{old}: {counted(len(images), 'image')}") as progress:
        first, confidence = _answers(before, images, progress)
    if after.preprocessing != before.preprocessing:
        images = read(after)[1]
    own_labels = torch.from_numpy(np.argsort(places))[images.labels.cpu()]
    notes += _changed(new, dataset, data.Split(images.images, own_labels, images.names))
    with display.task(f"{new}: {counted(len(images), 'image')}") as progress:
        second, new_confidence = _answers(after, images, progress)
    comparison = Comparison(
        old_name=str(old),
        new_name=str(new),
        images=source,
        classes=before.classes,
        labels=images.labels.cpu().numpy(),
        old=first,
        new=places[second],
        old_confidence=confidence,
        new_confidence=new_confidence,
        notes=tuple(notes),
    )
    return Compared(comparison=comparison, split=images)


def _same_classes(old: Classifier, new: Classifier) -> np.ndarray:
    """Return the place among the old model's classes of each of the new one's. `InputError`: they are others."""
    if sorted(old.classes) != sorted(new.classes):
        gone = [name for name in old.classes if name not in new.classes]
        added = [name for name in new.classes if name not in old.classes]
        parts = [f"{verb} {shortened(names)}" for names, verb in ((gone, "lacks"), (added, "adds")) if names]
        raise InputError(
            f"{new.source} {' and '.join(parts)}, compared with {old.source}: compare models of the same classes"
        )
    return np.array([old.classes.index(name) for name in new.classes])


def _dataset_of(path: Path | str, model: Classifier) -> str:
    if model.source.suffix.lower() == ".onnx":
        raise InputError(f"{path} does not say which images to compare on: give --test-set or --dataset")
    origin = models.origin_of(model.source)
    return origin.config.data.dataset if origin else "cifar10"


def _skips_damaged(model: Classifier) -> bool:
    """Return whether a model was trained on a folder without its damaged files; an .onnx file does not say it."""
    if model.source.suffix.lower() == ".onnx":
        return False
    origin = models.origin_of(model.source)
    return origin is not None and origin.config.data.skip_damaged


def _changed(path: Path | str, dataset: str | None, images: data.Split) -> list[str]:
    """Return a note where the test images of a data set, as a model takes them, are not those of its training."""
    if dataset is None or Path(path).suffix.lower() == ".onnx":
        return []
    weights = models.find_weights(path)
    origin = models.origin_of(weights)
    if origin is None or origin.data is None or origin.config.data.dataset != dataset:
        return []
    words = data.change_of_test(origin.data, images)
    return [f"The test images are not those that {path} had beside its training ({words})."] if words else []


def _test_images(
    dataset: str, classes: tuple[str, ...], how: dict[str, Any], data_dir: Path | str, download: bool, display: Display
) -> tuple[str, data.Split]:
    """Return the test images of a data set, read as `how` says, with labels that index `classes`, and their name."""
    loaded = data.load(dataset, data_dir, download=download, progress=display.speaks, **how)
    if sorted(loaded.classes) != sorted(classes):
        raise InputError(f"{dataset} has the classes {', '.join(loaded.classes)}, and the models {', '.join(classes)}")
    places = torch.tensor([classes.index(name) for name in loaded.classes])[loaded.test.labels.cpu()]
    images = data.Split(loaded.test.images, places, loaded.test.names)
    return f"{counted(len(places), 'test image')} of {loaded.name}", images


def _answers(model: Classifier, images: data.Split, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """Return what the model takes each image for (int, N), and the probability of that (float, N)."""
    rows = []
    for indices in chunks(iter(range(len(images))), BATCH_SIZE):
        batch = images.images[indices[0] : indices[-1] + 1]
        rows.append(model.probabilities(batch.contiguous().cpu().numpy()))
        progress(indices[-1] + 1, len(images))
    probabilities = np.concatenate(rows)
    return probabilities.argmax(axis=1), probabilities.max(axis=1)
