"""Gathering measurements of a model into a file. What is there with the same settings is not measured again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from flatnext import models
from flatnext.data import fingerprint_images, test_set_name
from flatnext.device import machine
from flatnext.errors import InputError
from flatnext.evaluation.trained_model import TrainedModel, load_trained_model
from flatnext.evidence import measuring
from flatnext.evidence.measuring import CHANGES, COMMON_SETTINGS, KINDS, Measure
from flatnext.evidence.plan import EvidencePlan, in_order
from flatnext.files import read_json, sha256, write_json
from flatnext.progress import Display
from flatnext.runs.evidence import DIVISION, EVIDENCE, Corruptions, Measurement, Provenance, evidence_file
from flatnext.runs.folder import RunFolder, find_runs, require_finished
from flatnext.runs.lock import wait_for_lock
from flatnext.runs.reading import CONFIG
from flatnext.schema import dump
from flatnext.words import duration


def gather(
    path: Path | str,
    names: Sequence[str] = ("all",),
    plan: EvidencePlan | None = None,
    *,
    output: Path | None = None,
    checkpoint: str | None = None,
    test_sets: Sequence[Path | str] = (),
    cifar10_c: Path | str | None = None,
    data_dir: Path | str = ".data",
    device: str = "auto",
    download: bool = True,
    overwrite: bool = False,
    overrides: Mapping[str, Any] | None = None,
    display: Display | None = None,
    command: str = "",
) -> Path:
    """Measure the weights at `path`, and return the file that holds the results.

    A measurement that the file has for these weights with these settings is kept; the file is written after each.

    Args:
        path: run folder, weights file, or name of shipped weights, as for `evaluate`.
        names: of `MEASUREMENTS`, or `all`.
        plan: on how many images, and with which settings (None: the defaults).
        output: the file (None: `evidence.json` in a run folder, where the study report looks for it; else
            NAME-evidence.json in the current folder).
        checkpoint: in a run folder, `last` or `best` (None: `last`); that of the best is in `evidence-best.json`.
        test_sets: other test sets to score.
        cifar10_c: folder of the published corrupted images.
        data_dir: where the data set lies, or is downloaded to.
        device: `auto`, `cpu`, `cuda` ...
        download: whether a missing data set may be fetched.
        overwrite: measure again what is there; replace a file that holds the evidence of other weights.
        overrides: settings by name, for `Config.override`.
        display: where progress is shown (None: nowhere).
        command: the command that this is done for, to be kept with each result.

    Raises:
        InputError: a path or setting is wrong, or the file cannot be read or written.
    """
    plan, display, path = plan or EvidencePlan(), display or Display(), Path(path)
    todo = _measurements(names, test_sets, cifar10_c)
    require_finished(path)
    weights = models.find_weights(path, checkpoint)
    digest = sha256(weights)  # before they are read
    model = load_trained_model(
        path,
        checkpoint=checkpoint,
        data_dir=data_dir,
        device=device,
        download=download,
        progress=display.speaks,
        overrides=overrides,
    )
    digests = _check_images(model, test_sets, cifar10_c)
    checkpoint = checkpoint or ("best" if weights.stem == "best" else "last")
    file = _EvidenceFile(output or _default_file(path, checkpoint), checkpoint, digest, model, overwrite)
    everything = _all_settings(plan, model, Path(data_dir), cifar10_c, test_sets) | {"test_set_images": digests}
    changes = {name: getattr(model.config.data, name) for name in CHANGES if name in (overrides or {})}
    for name, measure in todo.items():
        settings = {key: everything[key] for key in (*COMMON_SETTINGS, *KINDS[name].settings)} | changes
        if everything["precision"] == "fp64":  # `full_precision` keeps it
            settings["precision"] = "fp64"
        title, before = f"{path}: {name}", file.settings(name)
        if before == settings and not overwrite:
            display.say(f"{title}: gathered before")
            continue
        if before is not None and before != settings:
            display.say(f"{title}: was gathered with other settings, and is replaced")
        start = time.monotonic()
        with display.task(title) as progress:
            result = measure(model, plan, progress)
        made = _provenance(model, time.monotonic() - start, command)
        if sha256(weights) != digest:
            raise InputError(f"{weights} has changed while it was measured: give the same command again")
        file.add(name, Measurement(settings=settings, made=made, result=result))
        display.say(f"{title}: {duration(made.seconds)}")
    return file.path


def run_folders(path: Path) -> list[Path]:
    """Return the finished runs in and below a folder that is no run itself; the path alone where it holds no run.

    `InputError`: none of the runs has finished.
    """
    if not path.is_dir() or (path / CONFIG).is_file():
        return [path]
    runs = find_runs(path)
    if not runs:
        return [path]
    finished = [folder for folder in runs if RunFolder(folder).finished()]
    if not finished:
        raise InputError(f"{path} holds no finished run: give a study, a run, or a weights file")
    return finished


@dataclass(frozen=True)
class _EvidenceFile:
    """A file of results, with the checkpoint's name, the SHA-256 of the weights and the model that they are of.

    `overwrite`: whether the evidence of other weights may be replaced.
    """

    path: Path
    checkpoint: str
    digest: str
    model: TrainedModel
    overwrite: bool

    def read(self) -> dict[str, Any]:
        """Return what the file holds about these very weights, or a beginning."""
        classes = list(self.model.predictor.classes)
        fresh = {"checkpoint": self.checkpoint, "sha256": self.digest, "classes": classes, "parts": {}}
        try:
            content = read_json(self.path) if self.path.is_file() else fresh
        except InputError:
            content = None
        if not isinstance(content, dict) or not isinstance(content.get("parts"), dict):
            raise InputError(f"{self.path} is damaged, or holds no evidence: delete it, or choose another --output")
        if content.get("sha256") == self.digest:
            return content
        if not (self.overwrite or self._of_run()):
            raise InputError(
                f"{self.path} holds the evidence of other weights: choose another --output, or --overwrite"
            )
        return fresh

    def _of_run(self) -> bool:
        """Return whether the file is a run's own, which is out of date when the weights have changed."""
        return self.path == _default_file(self.path.parent, self.checkpoint) and RunFolder(self.path.parent).started()

    def settings(self, name: str) -> Any:
        """Return the settings of a measurement that the file holds, None if it does not."""
        before = self.read()["parts"].get(name)
        return before.get("settings") if before else None

    def add(self, name: str, measurement: Measurement[Any]) -> None:
        """Write a measurement beside those that the file holds now: another process may have added to it."""
        with wait_for_lock(self.path.parent) if self._of_run() else nullcontext():
            content = self.read()
            content["parts"][name] = dump(measurement) | {"result": _to_json(measurement.result)}
            write_json(self.path, content)


def _measurements(
    names: Sequence[str], test_sets: Sequence[Path | str], cifar10_c: Path | str | None
) -> dict[str, Measure]:
    """Return what is to be measured, by name."""
    todo: dict[str, Measure] = {name: KINDS[name].measure for name in in_order(names)}
    if cifar10_c is not None and "corruptions" not in todo:
        raise InputError("the files of CIFAR-10-C are for the measurement corruptions: name it, or leave them out")
    if cifar10_c is not None:
        todo["corruptions"] = partial(measuring.measure_corruptions, published=Path(cifar10_c))
    if test_sets:
        todo["test_sets"] = partial(measuring.measure_test_sets, paths=tuple(map(Path, test_sets)))
    return todo


def _check_images(model: TrainedModel, test_sets: Sequence[Path | str], cifar10_c: Path | str | None) -> list[str]:
    """Return the SHA-256 of each test set; `InputError` for images that cannot be read, before anything is measured."""
    if cifar10_c is not None:
        measuring.published_images(model, Path(cifar10_c))
    classes = len(model.predictor.classes)
    digests = [fingerprint_images(model.other_test_set(test_set), classes).sha256 for test_set in test_sets]
    names = [test_set_name(test_set) for test_set in test_sets]
    if len(set(names)) < len(names):
        raise InputError(f"test_sets are called {', '.join(names)}: rename them, so that they can be told apart")
    return digests


def _default_file(path: Path, checkpoint: str) -> Path:
    if path.is_dir():
        return evidence_file(path, checkpoint)
    return Path("-".join([*filter(None, [path.parent.name, path.stem]), EVIDENCE]))


def _all_settings(
    plan: EvidencePlan,
    model: TrainedModel,
    data_dir: Path,
    cifar10_c: Path | str | None,
    test_sets: Sequence[Path | str],
) -> dict[str, Any]:
    data = model.config.data
    return {
        **{name: list(value) if isinstance(value, tuple) else value for name, value in asdict(plan).items()},
        **{name: getattr(data, name) for name in ("dataset", "image_size", *DIVISION)},
        "data_dir": str(data_dir.absolute()) if data.dataset == "folder" else None,
        "precision": model.predictor.precision,
        "cifar10_c": cifar10_c and str(cifar10_c),
        "test_sets": [str(test_set) for test_set in test_sets],
    }


def _provenance(model: TrainedModel, seconds: float, command: str) -> Provenance:
    facts = machine(model.predictor.device)
    return Provenance(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        device=facts.device_name,
        threads=facts.threads,
        torch=facts.torch,
        seconds=round(seconds, 1),
    )


def _to_json(result: Any) -> dict[str, Any]:
    """Return a result as `json` can write it; corruption scores with their means, for other programs that read it."""
    content: dict[str, Any] = dump(result)
    if isinstance(result, Corruptions):
        for name, scores in vars(result).items():
            if scores is not None:
                means = {"mean": scores.mean, "by_corruption": scores.by_corruption}
                content[name] |= means | {"by_severity": list(scores.by_severity.values())}
    return content
