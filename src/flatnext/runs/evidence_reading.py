"""Reading a run's `evidence.json`."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flatnext.errors import InputError
from flatnext.files import read_json
from flatnext.runs import evidence as parts
from flatnext.runs.evidence import PARTS, Evidence
from flatnext.runs.typed import MismatchError, record

KINDS = {
    "calibration": parts.Calibration,
    "errors": parts.Errors,
    "flatness": parts.Flatness,
    "corruptions": parts.Corruptions,
    "attacks": parts.Attacks,
    "test_sets": parts.TestSets,
}
assert tuple(KINDS) == PARTS


def read_evidence(folder: Path, classes: tuple[str, ...]) -> Evidence | None:
    """Return what was measured on the run in `folder`, None where there is no `evidence.json`.

    Raises `InputError` naming file and part where it does not hold what it should, or is of other classes.
    """
    file = folder / "evidence.json"
    if not file.exists():
        return None
    try:
        return _evidence(read_json(file), classes)
    except MismatchError as error:
        what = " ".join(str(error).split())
        raise InputError(
            f"{file}: not as FlatNeXt writes it ({what}): delete it, and measure again with flatnext evaluate"
        ) from None


def is_stale(folder: Path, evidence: Evidence) -> bool:
    """Return whether the checkpoint in `folder` has other weights than were measured; not if it is gone."""
    weights = folder / f"{evidence.checkpoint}.safetensors"
    try:
        with open(weights, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() != evidence.sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(f"cannot read {weights}: {error.strerror}") from error


def _evidence(content: Any, classes: tuple[str, ...]) -> Evidence:
    held = content.get("parts") if isinstance(content, Mapping) else None
    if not isinstance(held, Mapping):
        raise MismatchError("parts is not an object")
    made = {name: None if held.get(name) is None else _part(name, held[name]) for name in PARTS}
    found = record(Evidence, content, "", **made)
    if found.classes != classes:
        raise MismatchError("classes are not those of the run")
    _check_classes(found, len(classes))
    return found


def _part(name: str, content: Any) -> parts.Part[Any]:
    if not isinstance(content, Mapping):
        raise MismatchError(f"{name} is not an object")
    kind: type[Any] = KINDS[name]
    return record(parts.Part, content, name, result=record(kind, content.get("result"), name))


def _check_classes(found: Evidence, classes: int) -> None:
    """Check what can only be checked by the number of classes, and the images."""
    if found.errors:
        _check_confusion("errors", found.errors.result.confusion, classes)
        for mistake in found.errors.result.mistakes:
            if not (0 <= mistake.label < classes and 0 <= mistake.predicted < classes):
                raise MismatchError(f"errors: the mistake at image {mistake.index} names a class that does not exist")
            if not all(png is None or is_png(png) for png in (mistake.png, mistake.cam, mistake.cam_label)):
                raise MismatchError(f"errors: the mistake at image {mistake.index} holds no PNG image")
    if found.test_sets:
        for name, scores in found.test_sets.result.sets.items():
            _check_confusion(f"test_sets.{name}", scores.confusion, classes)


def _check_confusion(at: str, rows: tuple[tuple[int, ...], ...], classes: int) -> None:
    if [len(row) for row in rows] != [classes] * classes:
        raise MismatchError(f"{at}: confusion is not {classes} by {classes}")
    if any(count < 0 for row in rows for count in row):
        raise MismatchError(f"{at}: confusion holds something other than counts")


def is_png(text: str) -> bool:
    """Return whether a text is a PNG file in base64."""
    try:
        return base64.b64decode(text, validate=True).startswith(b"\x89PNG")
    except ValueError:
        return False
