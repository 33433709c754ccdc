"""Reading one run's files. What is damaged is an `InputError` that names the file; nothing is kept between calls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from flatnext.config import Config
from flatnext.errors import InputError
from flatnext.files import read_json
from flatnext.runs.evidence_reading import is_png, is_stale, read_evidence
from flatnext.runs.records import (
    CheckpointRecord,
    Environment,
    Epoch,
    LeftOut,
    Result,
    RunRecord,
    Session,
)
from flatnext.runs.scores import Mistake, Scores
from flatnext.runs.typed import LARGEST, MismatchError, record

T = TypeVar("T")


def read_run(folder: Path, name: str) -> RunRecord | LeftOut:
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
    evidence = read_evidence(folder, environment.classes)
    stale = evidence is not None and is_stale(folder, evidence)
    return RunRecord(
        name=name,
        config=config,
        environment=environment,
        epochs=epochs,
        result=result,
        evidence=None if stale else evidence,
        stale_evidence=stale,
    )


def _reason(failure: Path, progress: str) -> str:
    if not failure.exists():
        return f"unfinished: {progress} epochs"
    error = _mapping(read_json(failure), failure).get("error", "no reason given")
    return f"failed after {progress} epochs: {error}"


def _environment(file: Path) -> Environment:
    content = {"processes": 1, **_mapping(read_json(file), file)}
    classes = _list(content, "classes", file)
    if not classes or not all(isinstance(name, str) for name in classes):
        raise _damaged(file, f"classes is {classes!r}")
    # A session that does not say where it ran is taken to have run where the last one did.
    sessions = [{**content, **_mapping(session, file)} for session in _list(content, "sessions", file)]
    if not sessions:
        raise _damaged(file, "sessions is empty")
    return _record(
        Environment,
        content,
        file,
        classes=tuple(classes),
        sessions=tuple(_record(Session, session, file) for session in sessions),
    )


def _epochs(file: Path) -> tuple[Epoch, ...]:
    """Return the epochs in order; a last line that a kill cut short is left out."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file} ({error}): delete that run, or restore the file") from error
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
        mistakes=tuple(_mistake(item, file, classes) for item in _list(content, "mistakes", file)),
    )


def _checkpoint(content: Any, file: Path, classes: int) -> CheckpointRecord:
    content = _mapping(content, file)
    held_out = content.get("validation")
    return _record(
        CheckpointRecord,
        content,
        file,
        validation=None if held_out is None else _scores(_mapping(held_out, file), file, None),
        test=_test_scores(_mapping(content.get("test"), file), file, classes),
    )


def _test_scores(content: Mapping[str, Any], file: Path, classes: int) -> Scores:
    rows = _list(content, "confusion", file)
    if [len(row) if isinstance(row, list) else None for row in rows] != [classes] * classes:
        raise _damaged(file, f"confusion is not {classes} by {classes}")
    if any(type(count) is not int or not 0 <= count <= LARGEST for row in rows for count in row):
        raise _damaged(file, "confusion holds something other than counts")
    return _scores(content, file, tuple(tuple(row) for row in rows))


def _scores(content: Mapping[str, Any], file: Path, confusion: tuple[tuple[int, ...], ...] | None) -> Scores:
    found = _record(Scores, content, file, confusion=confusion)
    if found.count < 1:
        raise _damaged(file, f"count is {found.count}")
    return found


def _mistake(content: Any, file: Path, classes: int) -> Mistake:
    mistake = _record(Mistake, _mapping(content, file), file)
    if not (0 <= mistake.label < classes and 0 <= mistake.predicted < classes):
        raise _damaged(file, f"the mistake at image {mistake.index} names a class that does not exist")
    if not is_png(mistake.png):
        raise _damaged(file, f"the mistake at image {mistake.index} holds no PNG image")
    return mistake


def _mapping(content: Any, file: Path) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        raise _damaged(file, "an object is missing")
    return content


def _list(content: Mapping[str, Any], name: str, file: Path) -> list[Any]:
    if not isinstance(content.get(name), list):
        raise _damaged(file, f"{name} is not a list")
    return content[name]


def _record(kind: type[T], content: Mapping[str, Any], file: Path, **made: Any) -> T:
    try:
        return record(kind, content, **made)
    except MismatchError as error:
        raise _damaged(file, str(error)) from None


def _damaged(file: Path, what: str) -> InputError:
    return InputError(f"{file}: not as FlatNeXt writes it ({what}): delete that run, or restore the file")
