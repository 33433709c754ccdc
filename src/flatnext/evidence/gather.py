"""Gathering evidence about a model into a file. What is there with the same settings is not done again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from flatnext.data import test_set_name
from flatnext.device import device_name
from flatnext.errors import InputError
from flatnext.evaluation.corruptions import read_cifar10_c
from flatnext.evaluation.subject import Subject, load_subject
from flatnext.evidence import parts as measures
from flatnext.evidence.plan import Plan, chosen
from flatnext.evidence.progress import Display, Quiet
from flatnext.files import read_json, write_json

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
    plan, display = plan or Plan(), display or Quiet()
    todo: dict[str, measures.Part] = {name: PARTS[name] for name in chosen(parts)}
    if cifar10_c is not None and "corruptions" not in todo:
        raise InputError("the files of CIFAR-10-C are for the part corruptions: name it, or leave them out")
    if cifar10_c is not None:
        read_cifar10_c(cifar10_c)
        todo["corruptions"] = partial(measures.corrupted, published=Path(cifar10_c))
    if test_sets:
        todo["test_sets"] = partial(measures.other_test_sets, paths=tuple(map(Path, test_sets)))
    subject = load_subject(
        path,
        checkpoint=checkpoint,
        data_dir=data_dir,
        device=device,
        download=download,
        progress=True,
        overrides=overrides,
    )
    extra = {"cifar10_c": cifar10_c and str(cifar10_c), "test_sets": [str(each) for each in test_sets]}
    for test_set in test_sets:  # what cannot be read is seen before anything is measured
        subject.other_test_set(test_set)
    names = [test_set_name(test_set) for test_set in test_sets]
    if len(set(names)) < len(names):
        raise InputError(f"test_sets are called {', '.join(names)}: rename them, so that they can be told apart")
    file = output or _file(Path(path), checkpoint or "last")
    content = _start(file, subject, checkpoint or "last")
    for name, measure in todo.items():
        settings = _settings(name, plan, subject, extra)
        if not overwrite and content["parts"].get(name, {}).get("settings") == settings:
            display.say(f"{path}: {name}: gathered before")
            continue
        began = time.monotonic()
        with display.part(f"{path}: {name}") as progress:
            result = measure(subject, plan, progress)
        made = _made(subject, time.monotonic() - began, command)
        content["parts"][name] = {"settings": settings, "made": made, "result": result}
        write_json(file, content)
    return file


def run_folders(path: Path) -> list[Path]:
    """Return the finished runs in and below a folder that is no run itself; else the path alone.

    `InputError`: there is none.
    """
    if not path.is_dir() or (path / "config.json").is_file():
        return [path]
    found = sorted(result.parent for result in path.rglob("result.json") if (result.parent / "config.json").is_file())
    if not found:
        raise InputError(f"{path}: no finished run in it: give a study, a run, or a weights file")
    return found


def _file(path: Path, checkpoint: str) -> Path:
    name = "evidence.json" if checkpoint == "last" else f"evidence-{checkpoint}.json"
    return path / name if path.is_dir() else Path(f"{path.stem}-evidence.json")


def _start(file: Path, subject: Subject, checkpoint: str) -> dict[str, Any]:
    """Return what the file holds about these very weights, or a beginning."""
    with open(subject.weights, "rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    fresh = {"checkpoint": checkpoint, "sha256": digest, "classes": list(subject.classes), "parts": {}}
    content = read_json(file) if file.is_file() else fresh
    if not isinstance(content, dict) or not isinstance(content.get("parts"), dict):
        raise InputError(f"{file} holds no evidence: delete it, or choose another --output")
    return content if content.get("sha256") == digest else fresh


def _settings(part: str, plan: Plan, subject: Subject, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that the result of a part depends on beside the weights."""
    whole = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(plan).items()}
    whole |= {**extra, "precision": subject.precision}
    own = {
        "flatness": (),  # always in single precision
        "corruptions": ("precision", "cifar10_c"),
        "attacks": ("precision", "linf", "l2", "autoattack"),
        "test_sets": ("precision", "test_sets"),
    }.get(part, ("precision",))
    return {name: whole[name] for name in ("images", "seed", *own)}


def _made(subject: Subject, seconds: float, command: str) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "device": device_name(subject.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "seconds": round(seconds, 1),
    }
