"""Reading the files of a run. What is damaged is an `InputError` of one line that names the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from flatnext.config import Config
from flatnext.errors import InputError
from flatnext.files import read_json, read_text, sha256
from flatnext.runs.comparison import require_as_trained
from flatnext.runs.evidence import EVIDENCE, PARTS, Evidence
from flatnext.runs.records import Environment, Epoch, Failure, Result, RunRecord, StudyPlan, UnfinishedRun
from flatnext.runs.scores import check_classes, is_png, require
from flatnext.schema import ParseError, parse
from flatnext.words import counted

T = TypeVar("T")

CONFIG, ENVIRONMENT, METRICS = "config.json", "environment.json", "metrics.jsonl"
RESULT, FAILURE, STUDY = "result.json", "failure.json", "study.json"

RESTORE = "delete that run, or restore the file"


def read_run(folder: Path, name: str) -> RunRecord | UnfinishedRun:
    """Read a run folder; `name` is what the run is called."""
    config = read_config(folder / CONFIG)
    epochs = read_epochs(folder / METRICS)
    if not (folder / RESULT).exists():
        done = f"{epochs[-1].epoch if epochs else 0} of {counted(config.epochs, 'epoch')}"
        failure = read_failure(folder / FAILURE)
        reason = f"failed after {done}: {failure.error}" if failure else f"unfinished: {done}"
        return UnfinishedRun(name, reason, config, failed=failure is not None)
    require_as_trained(folder, config)
    environment = read_environment(folder / ENVIRONMENT)
    evidence = read_evidence(folder / EVIDENCE, environment.classes)
    stale = evidence is not None and is_stale(folder, evidence)
    return RunRecord(
        name=name,
        config=config,
        environment=environment,
        epochs=epochs,
        result=read_result(folder / RESULT, len(environment.classes)),
        evidence=None if stale else evidence,
        stale_evidence=stale,
    )


def read_config(file: Path) -> Config:
    """Read `config.json`."""
    if not file.is_file():
        raise InputError(f"{file} does not exist: give a run folder, or the config.json of one")
    content = read_json(file)
    try:
        return Config.from_json(content)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def read_environment(file: Path) -> Environment:
    """Read `environment.json`. What an early session does not say of its machine is taken from the file's last one."""

    def environment(content: Any) -> Environment:
        if isinstance(content, Mapping) and isinstance(content.get("sessions"), list):
            sessions = [{**content, **s} if isinstance(s, Mapping) else s for s in content["sessions"]]
            content = {**content, "sessions": sessions}
        return parse(Environment, content, unknown="ignore")

    return _read(file, environment)


def read_epochs(file: Path) -> tuple[Epoch, ...]:
    """Read `metrics.jsonl`, in the order of epochs; there are none without the file.

    A last line that is cut short is ignored. Of an epoch that was repeated after a resume the last line counts.
    """
    try:
        lines = read_text(file).splitlines() if file.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file} ({error}): {RESTORE}") from error
    epochs = {}
    for number, line in enumerate(lines, 1):
        try:
            content = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise InputError(f"{file}: line {number} is not JSON: {RESTORE}") from None
        epoch = _checked(file, lambda line: parse(Epoch, line, unknown="ignore"), content)
        epochs[epoch.epoch] = epoch
    return tuple(epochs[number] for number in sorted(epochs))


def read_result(file: Path, classes: int | None = None) -> Result:
    """Read `result.json`; with `classes`, check that its confusion matrices and mistakes are of so many."""

    def result(content: Any) -> Result:
        result = parse(Result, content, unknown="ignore")
        for name, scores in (("last", result.last), ("best", result.best)):
            if scores is not None:
                confusion = scores.test.confusion
                require(confusion is not None, f"{name}.test.confusion is missing")
                check_classes(name, classes or len(confusion or ()), confusion, result.mistakes)
        return result

    return _read(file, result)


def read_failure(file: Path) -> Failure | None:
    """Read `failure.json`; None where there is no such file."""
    return _read(file, lambda content: parse(Failure, content, unknown="ignore")) if file.exists() else None


def read_plan(file: Path) -> StudyPlan:
    """Read `study.json`."""
    remedy = "restore the file, or delete it to report without"
    return _read(file, lambda content: parse(StudyPlan, content, unknown="ignore"), remedy)


def read_evidence(file: Path, classes: tuple[str, ...]) -> Evidence | None:
    """Read `evidence.json`, which must be of these classes; None where there is no such file."""

    def evidence(content: Any) -> Evidence:
        parts = content.get("parts") if isinstance(content, Mapping) else None
        if not isinstance(parts, Mapping):
            raise ParseError("parts is not an object")
        flat = content | {name: parts.get(name) for name in PARTS}
        evidence = parse(Evidence, flat, unknown="ignore")
        if evidence.classes != classes:
            raise ParseError("classes are not those of the run")
        _check_evidence_classes(evidence, len(classes))
        return evidence

    return _read(file, evidence, "delete it, and measure again with flatnext evidence") if file.exists() else None


def _check_evidence_classes(evidence: Evidence, classes: int) -> None:
    """Raise `ValueError` if a measurement is not of this number of classes."""
    if evidence.errors:
        errors = evidence.errors.result
        check_classes("errors", classes, errors.confusion, errors.mistakes)
        images = [png for mistake in errors.mistakes for png in (mistake.cam, mistake.cam_label) if png is not None]
        require(all(map(is_png, images)), "errors: a map over a mistake is no PNG image")
    if evidence.test_sets:
        for name, scores in evidence.test_sets.result.sets.items():
            check_classes(f"test_sets.{name}", classes, scores.confusion)


def is_stale(folder: Path, evidence: Evidence) -> bool:
    """Return whether the checkpoint in `folder` has other weights than were measured; not if it is gone."""
    weights = folder / f"{evidence.checkpoint}.safetensors"
    try:
        return sha256(weights) != evidence.sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(f"cannot read {weights}: {error.strerror}") from error


def _read(file: Path, parse: Callable[[Any], T], remedy: str = RESTORE) -> T:
    return _checked(file, parse, read_json(file), remedy)


def _checked(file: Path, parse: Callable[[Any], T], content: Any, remedy: str = RESTORE) -> T:
    try:
        return parse(content)
    except ValueError as error:
        raise InputError(f"{file}: not as FlatNeXt writes it ({' '.join(str(error).split())}): {remedy}") from None
