"""Calibrating weights that have no calibration of their answers: temperature and scores from labelled images."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from flatnext import data, models
from flatnext.deploy.torch_model import unseen
from flatnext.errors import InputError
from flatnext.evaluation import load_predictor
from flatnext.evaluation.conformal import in_halves
from flatnext.evaluation.trained_model import load_trained_model
from flatnext.files import as_typed, copy_atomically, read_json, require_new, sha256, write_json
from flatnext.models.catalog import is_shipped
from flatnext.models.hub import is_address
from flatnext.runs.conformal import Conformal
from flatnext.runs.evidence import evidence_file
from flatnext.runs.folder import require_finished
from flatnext.runs.lock import wait_for_lock
from flatnext.schema import dump
from flatnext.words import counted

COVERAGES = (0.9, 0.95, 0.99)
"""The coverages that are shown, as far as there are images enough."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """At a coverage: the mean number of classes in a set, and how many of the images' sets hold the class."""

    coverage: float
    mean_size: float
    held: int


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """The file that was written, its calibration, and what it does on `count` images that had no part in it."""

    path: Path
    conformal: Conformal
    count: int
    checks: tuple[Check, ...]


def calibrate(
    path: Path | str,
    *,
    test_set: Path | str | None = None,
    split: str | None = None,
    images: int | None = None,
    output: Path | None = None,
    checkpoint: str | None = None,
    data_dir: Path | str = ".data",
    device: str = "auto",
    download: bool = True,
    progress: bool = False,
    overwrite: bool = False,
) -> Calibrated:
    """Calibrate the answers of a model on labelled images that it was not trained on, and keep that in its file.

    One half of the images, by their pixels, fits the temperature, and the other gives the scores.

    Args:
        path: a finished run, a weights file of a run, or the name of weights that ship (which need an `output`).
        test_set: labelled images, as `flatnext.data.read_test_set` reads them.
        split: instead of a test set, `test` or `validation` of the data that the model was trained for. Not the
            validation images for a `best` checkpoint, which they have chosen.
        images: calibrate on so many of them, chosen by their pixels, and check on the others (None: on all).
        output: the file to write (None: the one that the weights are in).
        checkpoint: in a run folder, `last` or `best` (None: `last`).
        data_dir: where the data lie, for `split`.
        device: `auto`, `cpu`, `cuda` ...
        download: whether a missing data set may be fetched.
        progress: whether to show a download's progress.
        overwrite: replace the `output` that is there.

    Raises:
        InputError: the images or the weights cannot be read or do not fit, or there are too few. Nothing is written.
    """
    path = Path(path)
    if (test_set is None) == (split is None):
        raise InputError("test_set and split say which images to calibrate on: give one of them")
    if split not in (None, "test", "validation"):
        raise InputError(f"split is {split!r}: choose test or validation, which the model was not trained on")
    if path.suffix.lower() == ".onnx" and path.is_file():
        raise InputError(f"{path} was exported: calibrate the weights that it is of, and export them again")
    require_finished(path)
    if output is not None:
        require_new(output, overwrite=overwrite)
    weights = models.find_weights(path, checkpoint)
    if output is None and (not path.exists() or is_shipped(weights)):
        whose = "is on the Hub" if is_address(path) else "ships with the package"
        raise InputError(f"{as_typed(path)} {whose}, which is left as it is: give an --output")
    metadata = models.read_weights(weights)[1]
    origin = models.require_origin(metadata, weights)
    if test_set is not None:
        labelled, source = unseen(test_set, weights, origin), f"images of {data.test_set_name(test_set)}"
    else:
        # Files of 0.1.0 do not say it.
        if split == "validation" and "best" in (metadata.get("checkpoint"), weights.stem):
            raise InputError(
                "split is 'validation': these images have chosen the best checkpoint: give split 'test' or a test set"
            )
        model = load_trained_model(weights, data_dir=data_dir, device=device, download=download, progress=progress)
        labelled, source = model.split(split or ""), f"{split} images of {model.dataset.name}"
        if split == "validation" and model.knows_held_out:
            raise InputError(
                f"split is 'validation': {as_typed(path)} started from weights that may have been trained on these "
                "images: give split 'test' or a test set"
            )
    first = _chosen(labelled, images)
    logits = load_predictor(weights, device=device)(labelled.images)
    made = in_halves(labelled.select(first.nonzero().flatten()), logits[first], source)
    if made is None:
        raise InputError(
            f"{len(labelled):,} {source} do not calibrate a model: give more, or weights whose outputs are finite"
        )
    rest = ~first
    checks = _checks((logits[rest].double() / made.temperature).softmax(dim=1), labelled.labels[rest], made)
    metadata = {"conformal": json.dumps(dump(made))}
    if output is None:
        _replace(weights, metadata)
    else:
        models.add_metadata(weights, metadata, output)
    return Calibrated(path=output or weights, conformal=made, count=int(rest.sum()), checks=checks)


def format_calibrated(calibrated: Calibrated) -> str:
    """Return what was done, in lines."""
    made = calibrated.conformal
    lines = [f"{calibrated.path}: temperature {made.temperature:.3f}, {counted(made.images, 'score')}: {made.source}"]
    others = counted(calibrated.count, "other image")
    for check in calibrated.checks:
        share = f"{check.held / calibrated.count:.2%} of {others}" if calibrated.count else ""
        lines.append(
            f"coverage {check.coverage:.0%}: the set holds the class of {share}, {check.mean_size:.2f} classes in a set"
        )
    possible = [coverage for coverage in COVERAGES if made.fewest_images(coverage) <= made.images]
    if not calibrated.checks and possible:
        lines.append("for example: " + ", ".join(f"--coverage {coverage:g}" for coverage in possible))
    return "\n".join(lines)


def _chosen(split: data.Split, count: int | None) -> torch.Tensor:
    """Return which images (bool, N) to calibrate on: `count` of them, by a hash of their pixels."""
    if count is None:
        return torch.ones(len(split), dtype=torch.bool)
    if not 2 <= count <= len(split):
        raise InputError(f"images is {count}: there are {len(split):,}, so give 2 to {len(split)}")
    # Not by the byte that says in which half an image is.
    numbers = [hashlib.sha256(image.contiguous().cpu().numpy().data).digest()[1:] for image in split.images]
    chosen = torch.zeros(len(split), dtype=torch.bool)
    chosen[sorted(range(len(split)), key=lambda index: (numbers[index], index))[:count]] = True
    return chosen


def _checks(probabilities: torch.Tensor, labels: torch.Tensor, made: Conformal) -> tuple[Check, ...]:
    checks = []
    for coverage in COVERAGES if len(labels) else ():
        if made.fewest_images(coverage) <= made.images:
            sets = made.sets(probabilities, coverage)
            held = int(sets.gather(1, labels.cpu()[:, None]).sum())
            checks.append(Check(coverage=coverage, mean_size=float(sets.sum(dim=1).double().mean()), held=held))
    return tuple(checks)


def _replace(weights: Path, metadata: dict[str, str]) -> None:
    """Add metadata to a weights file, and let the evidence of a run that was measured on it name the file as it is now.

    Where the evidence cannot be written, or that is interrupted, the weights are as before.
    """
    file = evidence_file(weights.parent, weights.stem)
    if not file.is_file():
        models.add_metadata(weights, metadata)
        return
    before = weights.with_name(f".{weights.name}.before.tmp")
    with wait_for_lock(file.parent):  # another process may be adding to it
        copy_atomically(weights, before)
        try:
            models.add_metadata(weights, metadata)
            content = read_json(file)
            if isinstance(content, dict) and content.get("sha256") == sha256(before):
                write_json(file, {**content, "sha256": sha256(weights)})
        except BaseException:
            os.replace(before, weights)
            raise
        finally:
            before.unlink(missing_ok=True)
