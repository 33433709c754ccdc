"""What one run left on disk, read into frozen values. Nothing is computed here and nothing is kept between calls."""

from __future__ import annotations

import base64
import binascii
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flatnext.config import Config
from flatnext.errors import InputError
from flatnext.files import read_json

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where a run was made: `environment.json`."""

    flatnext: str
    python: str
    torch: str
    numpy: str
    platform: str
    device: str
    device_name: str
    threads: int
    precision: str
    parameters: int
    train_images: int
    validation_images: int
    test_images: int
    classes: tuple[str, ...]
    commands: tuple[str, ...]
    started: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One line of `metrics.jsonl`. Accuracies are fractions; the training ones are over the augmented images."""

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None
    train_seconds: float
    evaluation_seconds: float
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One evaluation over `count` images; `confusion` counts them by true class (row) and predicted class (column)."""

    loss: float
    accuracy: float
    count: int
    confusion: tuple[tuple[int, ...], ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The weights after an epoch, evaluated."""

    epoch: int
    validation: Scores | None
    test: Scores


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A test image that was misclassified; `label` and `predicted` index the classes, `png` is its file in base64."""

    index: int
    label: int
    predicted: int
    confidence: float
    png: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """`result.json`: the last epoch, the best one on the validation split, and the last one's surest mistakes."""

    last: Checkpoint
    best: Checkpoint | None
    mistakes: tuple[Mistake, ...]
    train_seconds: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run, so that nothing of it is missing."""

    name: str
    config: Config
    environment: Environment
    epochs: tuple[Epoch, ...]
    result: Result


@dataclass(frozen=True)
class LeftOut:
    """A run that has not finished and is in no statistics, and why."""

    name: str
    reason: str


def read_run(folder: Path, name: str) -> Run | LeftOut:
    """Read a run folder, to be called `name`. Raises `InputError` naming a file that does not hold what it should."""
    content = read_json(folder / "config.json")
    try:
        config = Config.from_json(content)
    except InputError as error:
        raise InputError(f"{folder / 'config.json'}: {error}") from None
    epochs = _epochs(folder / "metrics.jsonl")
    if not (folder / "result.json").exists():
        return LeftOut(
            name, _reason(folder / "failure.json", f"{epochs[-1].epoch if epochs else 0} of {config.epochs}")
        )
    environment = _environment(folder / "environment.json")
    result = _result(folder / "result.json", len(environment.classes))
    return Run(name=name, config=config, environment=environment, epochs=epochs, result=result)


def _reason(failure: Path, progress: str) -> str:
    if not failure.exists():
        return f"unfinished: {progress} epochs"
    error = _mapping(read_json(failure), failure).get("error", "no reason given")
    return f"failed after {progress} epochs: {error}"


def _environment(file: Path) -> Environment:
    content = _mapping(read_json(file), file)
    sessions = [_mapping(session, file) for session in content.get("sessions", ())]
    return _record(
        Environment,
        content,
        file,
        classes=tuple(map(str, content.get("classes", ()))),
        commands=tuple(str(session.get("command", "")) for session in sessions),
        started=tuple(str(session.get("started", "")) for session in sessions),
    )


def _epochs(file: Path) -> tuple[Epoch, ...]:
    """Return the epochs in order; a last line that a kill cut short is left out."""
    lines = file.read_bytes().splitlines() if file.exists() else []
    epochs = {}
    for number, line in enumerate(lines, 1):
        try:
            content = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise InputError(f"{file}: line {number} is not JSON: delete that run, or restore the file") from None
        epoch = _record(Epoch, _mapping(content, file), file)
        epochs[epoch.epoch] = epoch  # an epoch that was run again after a resume counts as it was last
    return tuple(epochs[number] for number in sorted(epochs))


def _result(file: Path, classes: int) -> Result:
    content = _mapping(read_json(file), file)
    best = content.get("best")
    return _record(
        Result,
        content,
        file,
        last=_checkpoint(content.get("last"), file, classes),
        best=None if best is None else _checkpoint(best, file, classes),
        mistakes=tuple(_mistake(item, file, classes) for item in content.get("mistakes", ())),
    )


def _checkpoint(content: Any, file: Path, classes: int) -> Checkpoint:
    content = _mapping(content, file)
    validation = content.get("validation")
    return _record(
        Checkpoint,
        content,
        file,
        validation=None if validation is None else _record(Scores, _mapping(validation, file), file, confusion=None),
        test=_test_scores(_mapping(content.get("test"), file), file, classes),
    )


def _test_scores(content: Mapping[str, Any], file: Path, classes: int) -> Scores:
    rows = content.get("confusion")
    if (
        not isinstance(rows, list)
        or [len(row) if isinstance(row, list) else None for row in rows] != [classes] * classes
    ):
        raise _damaged(file, f"confusion is not {classes} by {classes}")
    if any(type(count) is not int or count < 0 for row in rows for count in row):
        raise _damaged(file, "confusion holds something other than counts")
    return _record(Scores, content, file, confusion=tuple(tuple(row) for row in rows))


def _mistake(content: Any, file: Path, classes: int) -> Mistake:
    mistake = _record(Mistake, _mapping(content, file), file)
    if not (0 <= mistake.label < classes and 0 <= mistake.predicted < classes):
        raise _damaged(file, f"the mistake at image {mistake.index} names a class that does not exist")
    try:
        image = base64.b64decode(mistake.png, validate=True)
    except binascii.Error:
        image = b""
    if not image.startswith(b"\x89PNG"):
        raise _damaged(file, f"the mistake at image {mistake.index} holds no PNG image")
    return mistake


def _mapping(content: Any, file: Path) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        raise _damaged(file, "an object is missing")
    return content


def _record(kind: type[T], content: Mapping[str, Any], file: Path, **made: Any) -> T:
    """Return the dataclass `kind` from the fields in `made` and, type by type, those in `content`."""
    hints = typing.get_type_hints(kind)
    values = dict(made)
    for name in hints.keys() - made.keys():
        if name not in content:
            raise _damaged(file, f"{name} is missing")
        value, hint = content[name], hints[name]
        choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if type(value) is int and int not in choices and float in choices:
            value = float(value)
        if type(value) not in choices and not (value is None and type(None) in choices):
            raise _damaged(file, f"{name} is {value!r}")
        values[name] = value
    return kind(**values)


def _damaged(file: Path, what: str) -> InputError:
    return InputError(f"{file}: not as FlatNeXt writes it ({what}): delete that run, or restore the file")
