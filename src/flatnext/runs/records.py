"""The schemas of the files of a run but for its evidence: written by training, read by the study and the model card."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from flatnext.config import Config
from flatnext.runs.evidence import Evidence
from flatnext.runs.fingerprint import DataFingerprint
from flatnext.runs.scores import Mistake, Scores


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a process computed on: the name of the chip, the version of torch, and the number of threads."""

    device_name: str
    torch: str
    threads: int


@dataclass(frozen=True, kw_only=True)
class Session(Machine):
    """One start of a run, and where it ran: a run that was resumed may have moved. `started` is in ISO format.

    `changed` has the settings, by name, that the run has had since this session, which made it longer.
    `keep_checkpoints` (a number, or `all`) and `on_divergence` are what the session was told to do. `commit` is that of
    the clone that the package ran from; None where it was installed.
    """

    command: str
    started: str
    commit: str | None = None
    from_step: int = 0
    processes: int = 1
    changed: dict[str, Any] = field(default_factory=dict)
    keep_checkpoints: str = "0"
    on_divergence: Literal["stop", "rollback"] = "stop"


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """A return to the checkpoint before `epoch` (from 1), since the loss of a step (from 0) of it was not finite.

    Since then the learning rate is `rate_factor` times that of the config.
    """

    epoch: int
    step: int
    rate_factor: float


@dataclass(frozen=True, kw_only=True)
class StartingWeights:
    """The weights that a run started from, as its command named them, and in words what was taken of them.

    `may_know_held_out`: images that the run holds out may be among those that the weights were trained on.
    """

    weights: str
    sha256: str
    taken: str
    may_know_held_out: bool = False


@dataclass(frozen=True, kw_only=True)
class Environment(Machine):
    """`environment.json`: the circumstances of a run's last session, its data and its sessions.

    `data` is None in files of version 0.1.0. `not_of_recipe` has the settings, by name, that were not those of the
    recipe when the run began; `model` is the name of a model. `data_notes` say what of the data was not used and how
    the rest was read. `started_from` is None for a run with new weights. `rollbacks`: see `Rollback`.
    """

    flatnext: str
    python: str
    numpy: str
    platform: str
    device: str = ""
    processes: int = 1
    precision: str
    kernels: bool = False
    parameters: int
    train_images: int
    validation_images: int
    test_images: int
    classes: tuple[str, ...]
    data_dir: str | None = None
    data: DataFingerprint | None = None
    data_notes: tuple[str, ...] = ()
    not_of_recipe: dict[str, Any] = field(default_factory=dict)
    started_from: StartingWeights | None = None
    rollbacks: tuple[Rollback, ...] = ()
    sessions: tuple[Session, ...]

    def rolled_back(self) -> str:
        """Return in words where the run went back since its loss was not finite, and with which rate it went on."""
        parts = [f"{back.rate_factor:g} times from epoch {back.epoch} on" for back in self.rollbacks]
        return f"its loss was not finite, or huge, and it went on with {', '.join(parts)}"

    def __post_init__(self) -> None:
        """Check that there are classes and sessions."""
        for name in ("classes", "sessions"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty")


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One line of `metrics.jsonl`. Accuracies are fractions; the training ones are of the augmented images.

    `step` counts from the start of the run. Losses and accuracies are None where they were not measured.
    """

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
    validation_balanced_accuracy: float | None = None
    """Of uneven classes, where it chooses the best epoch."""


@dataclass(frozen=True, kw_only=True)
class CheckpointScores:
    """Scores of the weights after an epoch."""

    epoch: int
    validation: Scores | None
    test: Scores


@dataclass(frozen=True, kw_only=True)
class Result:
    """`result.json`: the last epoch, the best one on the validation split, and the last one's most confident errors."""

    last: CheckpointScores
    best: CheckpointScores | None
    mistakes: tuple[Mistake, ...]
    train_seconds: float
    images_per_second: float | None = None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """`failure.json`: why a run could not go on."""

    error: str = "no reason given"
    epoch: int = 0
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """`study.json`: the recipes and seeds of a study, whose runs are in `RECIPE/seed-SEED`, and its command.

    `contrasts` are the pairs of recipes to compare, the baseline last; none: each method with plain SGD. `jobs` runs
    were made at a time with `threads` threads each; None where that was not noted. With `max_seeds` seeds were added
    until the contrasts were decided, up to so many. `comparisons`: how many were planned, by name or by default, of
    which `defaults` are those by default. `begun_with`: how many seeds there were to be at first.
    """

    recipes: tuple[str, ...]
    seeds: tuple[int, ...]
    command: str = ""
    contrasts: tuple[tuple[str, str], ...] = ()
    jobs: int | None = None
    threads: int | None = None
    max_seeds: int | None = None
    comparisons: int | None = None
    begun_with: int | None = None
    defaults: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Check that the contrasts are of two recipes of the study, each once."""
        for pair in self.contrasts:
            name = ":".join(pair)
            if missing := [recipe for recipe in pair if recipe not in self.recipes]:
                raise ValueError(f"contrast {name}: {missing[0]} is not among the recipes {', '.join(self.recipes)}")
            if pair[0] == pair[1] or self.contrasts.count(pair) > 1:
                raise ValueError(f"contrast {name}: name two different recipes, and each pair once")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A finished run. `evidence` is None where nothing was measured after training, or where it is stale.

    `stale_evidence`: the evidence is of other weights than those in the folder, and has been left out.
    """

    name: str
    config: Config
    environment: Environment
    epochs: tuple[Epoch, ...]
    result: Result
    evidence: Evidence | None = None
    stale_evidence: bool = False


@dataclass(frozen=True)
class UnfinishedRun:
    """A run that is in no statistics, mostly as it has not finished, and why. `config` is None if it was not started.

    `planned` is False for one that lies in the folder of a study and is not of its plan, such as a run made again.
    """

    name: str
    reason: str
    config: Config | None = None
    failed: bool = False
    planned: bool = True
