"""What one run left on disk, as frozen values. Nothing is computed here."""

from __future__ import annotations

from dataclasses import dataclass

from flatnext.config import Config
from flatnext.runs.evidence import Evidence
from flatnext.runs.scores import Mistake, Scores


@dataclass(frozen=True, kw_only=True)
class Session:
    """One start of a run, and where it ran: a run that was taken up again may have moved."""

    command: str
    started: str
    device_name: str
    torch: str
    threads: int
    processes: int


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where a run was made: `environment.json`."""

    flatnext: str
    python: str
    numpy: str
    platform: str
    precision: str
    parameters: int
    train_images: int
    validation_images: int
    test_images: int
    classes: tuple[str, ...]
    sessions: tuple[Session, ...]


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
class CheckpointRecord:
    """The weights after an epoch, evaluated."""

    epoch: int
    validation: Scores | None
    test: Scores


@dataclass(frozen=True, kw_only=True)
class Result:
    """`result.json`: the last epoch, the best one on the validation split, and the last one's most confident errors."""

    last: CheckpointRecord
    best: CheckpointRecord | None
    mistakes: tuple[Mistake, ...]
    train_seconds: float


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A finished run, so that nothing of it is missing but what was not measured after training.

    `stale_evidence`: what was measured is of other weights than are there now, and is left out.
    """

    name: str
    config: Config
    environment: Environment
    epochs: tuple[Epoch, ...]
    result: Result
    evidence: Evidence | None = None
    stale_evidence: bool = False


@dataclass(frozen=True)
class LeftOut:
    """A run that has not finished and is in no statistics, and why."""

    name: str
    reason: str
