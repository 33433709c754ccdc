"""Gathering evidence about a model into a file. What is there with the same settings is not done again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from flatnext import models
from flatnext.data import test_set_name
from flatnext.device import device_name
from flatnext.errors import InputError
from flatnext.evaluation.subject import Subject, load_subject
from flatnext.evidence import parts as measures
from flatnext.evidence.plan import Plan, chosen
from flatnext.evidence.progress import Display, Quiet
from flatnext.files import read_json, sha256, write_json
from flatnext.runs.folder import RunFolder, find_runs

PARTS: dict[str, measures.Part] = {
    "calibration": measures.calibration,
    "errors": measures.errors,
    "flatness": measures.flat,
    "corruptions": measures.corrupted,
    "attacks": measures.attacked,
}


def gather(
    path: Path | str,
    parts: Sequence[str] = ("all",),
    plan: Plan | None = None,
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
    """Gather parts of the evidence about the weights at `path`, and return the file that holds them.

    A part that the file has for these weights with these settings is kept as it is; the file is written after each.

    Args:
        path: run folder, weights file, or name of shipped weights, as for `evaluate`.
        parts: of `plan.PARTS`, or `all`.
        plan: on how many images, and with which settings (None: the defaults).
        output: the file (None: `evidence.json` in a run folder, which the report reads; else NAME-evidence.json here).
        checkpoint: in a run folder, `last` or `best` (None: `last`); that of the best is in `evidence-best.json`.
        test_sets: other test sets to score.
        cifar10_c: folder of the published corrupted images.
        data_dir: where the data set lies, or is downloaded to.
        device: `auto`, `cpu`, `cuda` ...
        download: whether a missing data set may be fetched.
        overwrite: gather anew what is there.
        overrides: settings by name, for `Config.override`.
        display: where progress is shown (None: nowhere).
        command: the command that this is done for, to be kept with each part.

    Raises:
        InputError: a path or setting is wrong, or the file cannot be read or written.
    """
    plan, display, path = plan or Plan(), display or Quiet(), Path(path)
    todo = _measures(parts, test_sets, cifar10_c)
    weights = models.find_weights(path, checkpoint)
    if path.is_dir() and not RunFolder(path).finished():
        raise InputError(f"{path} has not finished: wait, or go on with flatnext train --resume {path}")
    digest = sha256(weights)  # before they are read: if they change meanwhile, the evidence is stale and not wrong
    subject = load_subject(
        path,
        checkpoint=checkpoint,
        data_dir=data_dir,
        device=device,
        download=download,
        progress=True,
        overrides=overrides,
    )
    _check_images(subject, test_sets, cifar10_c)
    file = output or _file(path, checkpoint or "last")
    settings = _settings(plan, subject, Path(data_dir), {"cifar10_c": cifar10_c, "test_sets": test_sets})
    for name, measure in todo.items():
        before = _read(file, digest, checkpoint or "last", subject.classes)["parts"].get(name)
        if before and before.get("settings") == settings[name] and not overwrite:
            display.say(f"{path}: {name}: gathered before")
            continue
        if before and before.get("settings") != settings[name]:
            display.say(f"{path}: {name}: was gathered with other settings, and is replaced")
        began = time.monotonic()
        with display.part(f"{path}: {name}") as progress:
            result = measure(subject, plan, progress)
        made = _made(subject, time.monotonic() - began, command)
        content = _read(file, digest, checkpoint or "last", subject.classes)  # another process may have added to it
        content["parts"][name] = {"settings": settings[name], "made": made, "result": result}
        write_json(file, content)
    return file


def _measures(
    parts: Sequence[str], test_sets: Sequence[Path | str], cifar10_c: Path | str | None
) -> dict[str, measures.Part]:
    """Return what is to be done, by name."""
    todo: dict[str, measures.Part] = {name: PARTS[name] for name in chosen(parts)}
    if cifar10_c is not None and "corruptions" not in todo:
        raise InputError("the files of CIFAR-10-C are for the part corruptions: name it, or leave them out")
    if cifar10_c is not None:
        todo["corruptions"] = partial(measures.corrupted, published=Path(cifar10_c))
    if test_sets:
        todo["test_sets"] = partial(measures.other_test_sets, paths=tuple(map(Path, test_sets)))
    return todo


def _check_images(subject: Subject, test_sets: Sequence[Path | str], cifar10_c: Path | str | None) -> None:
    """Read what cannot be read before anything is measured."""
    if cifar10_c is not None:
        measures.published_images(subject, Path(cifar10_c))
    for test_set in test_sets:
        subject.other_test_set(test_set)
    names = [test_set_name(test_set) for test_set in test_sets]
    if len(set(names)) < len(names):
        raise InputError(f"test_sets are called {', '.join(names)}: rename them, so that they can be told apart")


def run_folders(path: Path) -> list[Path]:
    """Return the finished runs in and below a folder that is no run itself; else the path alone.

    `InputError`: there is none.
    """
    if not path.is_dir() or (path / "config.json").is_file():
        return [path]
    found = [run for run in find_runs(path) if RunFolder(run).finished()]
    if not found:
        raise InputError(f"{path}: no finished run in it: give a study, a run, or a weights file")
    return found


def _file(path: Path, checkpoint: str) -> Path:
    name = "evidence.json" if checkpoint == "last" else f"evidence-{checkpoint}.json"
    if path.is_dir():
        return path / name
    return Path("-".join([*filter(None, [path.parent.name, path.stem]), "evidence.json"]))


def _read(file: Path, digest: str, checkpoint: str, classes: Sequence[str]) -> dict[str, Any]:
    """Return what the file holds about these very weights, or a beginning."""
    fresh = {"checkpoint": checkpoint, "sha256": digest, "classes": list(classes), "parts": {}}
    try:
        content = read_json(file) if file.is_file() else fresh
    except InputError:
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("parts"), dict):
        raise InputError(f"{file} is damaged, or holds no evidence: delete it, or choose another --output")
    return content if content.get("sha256") == digest else fresh


def _settings(plan: Plan, subject: Subject, data_dir: Path, extra: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return by part all that its result depends on beside the weights."""
    data = subject.config.data
    whole = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(plan).items()}
    whole |= {name: getattr(data, name) for name in ("dataset", "image_size")}
    whole |= {name: getattr(data, name) for name in ("validation", "train_images", "split_seed")}
    whole |= {"data_dir": str(data_dir.absolute()) if data.dataset == "folder" else None}
    whole |= {"precision": subject.precision, "cifar10_c": extra["cifar10_c"] and str(extra["cifar10_c"])}
    whole |= {"test_sets": [str(each) for each in extra["test_sets"]]}
    division = ("validation", "split_seed", "train_images")
    own = {
        "calibration": ("precision", *division),
        "errors": ("precision",),
        "flatness": division,
        "corruptions": ("precision", "cifar10_c"),
        "attacks": ("linf", "l2", "autoattack"),
        "test_sets": ("precision", "test_sets"),
    }
    common = ("images", "seed", "dataset", "image_size", "data_dir")
    return {part: {name: whole[name] for name in (*common, *names)} for part, names in own.items()}


def _made(subject: Subject, seconds: float, command: str) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "device": device_name(subject.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "seconds": round(seconds, 1),
    }
