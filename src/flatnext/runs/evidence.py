"""What was measured on one run after training, `evidence.json`, as frozen values that are checked when made.

What is None was not measured, or was not finite. Each measurement keeps its settings and how it was made.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any, Generic, TypeVar

from flatnext.runs.scores import Confusion, Mistake, Scores, check_count, check_fractions, require

T = TypeVar("T")

Values = tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """When, where and by which command something was measured."""

    date: str
    command: str
    device: str
    threads: int
    torch: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Measurement(Generic[T]):
    """The result of a measurement, with all settings that it depends on beside the weights."""

    settings: dict[str, Any]
    made: Provenance
    result: T


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Images by confidence: bin i reaches from `edges[i]` to `edges[i + 1]`; None where a bin is empty."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    confidence: Values
    accuracy: Values

    def __post_init__(self) -> None:
        """Check that the lists fit together."""
        require(len(self.counts) > 0 and min(self.counts) >= 0, "counts has no bins, or one below zero")
        require(len(self.edges) == len(self.counts) + 1, "edges are not one more than counts")
        require(len(self.confidence) == len(self.accuracy) == len(self.counts), "the lists differ in length")
        for count, mean, right in zip(self.counts, self.confidence, self.accuracy, strict=True):
            require((count == 0) == (mean is None) == (right is None), "a bin is null and has images, or the reverse")
        check_fractions(confidence=self.confidence, accuracy=self.accuracy)


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """Calibration on the test images with the temperature that fits `validation_count` validation images best."""

    temperature: float
    validation_count: int
    nll: float | None
    brier: float | None
    ece: float | None
    adaptive_ece: float | None
    reliability: Reliability


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Calibration on `count` test images; `scaled` is None without a validation split."""

    count: int
    accuracy: float
    nll: float | None
    brier: float | None
    ece: float | None
    adaptive_ece: float | None
    bins: int
    reliability: Reliability
    scaled: Scaled | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_count(self.count)
        check_fractions(accuracy=self.accuracy)


@dataclass(frozen=True, kw_only=True)
class ExplainedMistake(Mistake):
    """A misclassified image with Grad-CAM maps over it, of the predicted and of the true class: PNG files in base64."""

    cam: str | None = None
    cam_label: str | None = None


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Errors on `count` test images; `confusion` by true class (row), the most confident mistakes first."""

    count: int
    accuracy: float
    confusion: Confusion
    mistakes: tuple[ExplainedMistake, ...]

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_count(self.count)
        check_fractions(accuracy=self.accuracy)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Loss at `radii` from the solution: `losses[direction][radius]`, and their `mean` and `sd` over directions.

    `sd` is the sample standard deviation, None for one direction. `centre` is the loss at radius 0. A radius of 1 is a
    distance of `unit` in the units of the weights (L2 norm). `direction` is random or gradient. On `count` images.
    """

    direction: str | None = None
    radii: tuple[float, ...]
    unit: float | None
    centre: float | None
    mean: Values
    sd: Values | None = None
    losses: tuple[Values, ...]
    count: int

    def __post_init__(self) -> None:
        """Check that the lists fit together."""
        check_count(self.count)
        require(len(self.radii) > 0, "radii is empty")
        require(len(self.losses) > 0, "losses is empty")
        rows = [len(row) for row in (self.mean, *self.losses)]
        require(set(rows) == {len(self.radii)}, "radii, mean and losses differ in length")


@dataclass(frozen=True, kw_only=True)
class Surface:
    """Loss on a plane: `losses[i][j]` at `positions[i]` along the first direction, `positions[j]` along the second.

    The middle one is `centre`, the loss at the solution. A position of 1 is a distance of `unit` in the units of the
    weights; `cosine` is that of the angle between the two directions. On `count` images.
    """

    positions: tuple[float, ...]
    unit: float | None = None
    cosine: float | None = None
    centre: float | None
    losses: tuple[Values, ...]
    count: int

    def __post_init__(self) -> None:
        """Check that it is a grid."""
        check_count(self.count)
        size = len(self.positions)
        require(size >= 3 and list(self.positions) == sorted(set(self.positions)), "positions do not rise")
        require([len(row) for row in self.losses] == [size] * size, f"losses is not {size} by {size}")


@dataclass(frozen=True, kw_only=True)
class Sharpness:
    """The largest loss that `steps` of an ascent met in a ball of `radius` around the weights, on `count` images.

    `kind` is the ascent: amp, sam or asam. `ball` is tensor (a ball for each parameter tensor), global
    or adaptive. `loss` is that at the weights, `worst` the largest, met at a `distance` (L2 norm over all weights) from
    them, and `increase` their difference, never negative.
    """

    kind: str | None = None
    ball: str
    radius: float
    steps: int
    loss: float | None
    worst: float | None
    increase: float | None
    distance: float | None = None
    count: int

    def __post_init__(self) -> None:
        """Check the number of images."""
        check_count(self.count)


@dataclass(frozen=True, kw_only=True)
class Eigenvalues:
    """The largest eigenvalues of the Hessian on `count` images, largest first, and the `smallest` that showed.

    Within `residuals[i]` of `values[i]` there is an eigenvalue; the error itself is of the order of the residual's
    square over the gap to the next. `converged`: all residuals are within the tolerance. `smallest` comes from the same
    steps, with a residual of its own: below zero, the weights are no minimum. It took `steps` Hessian-vector products
    of `dimension` weights, in `precision`.
    """

    values: Values
    residuals: Values = ()
    smallest: float | None = None
    smallest_residual: float | None = None
    converged: bool
    steps: int | None = None
    dimension: int | None = None
    precision: str | None = None
    count: int

    def __post_init__(self) -> None:
        """Check that there is one."""
        check_count(self.count)
        require(len(self.values) > 0, "values is empty")


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The trace of the Hessian on `count` images: the mean of `samples`, one for each of `probes` random vectors.

    `standard_error` is that of the mean, None for one probe.
    """

    trace: float | None
    standard_error: float | None
    samples: Values = ()
    probes: int
    dimension: int | None = None
    precision: str | None = None
    count: int

    def __post_init__(self) -> None:
        """Check the number of images."""
        check_count(self.count)


@dataclass(frozen=True, kw_only=True)
class Flatness:
    """Loss along directions and on a plane, sharpness by the ascents of three methods, and the Hessian.

    `split` names the images: those trained on, or the test images.
    """

    split: str = "train"
    random: Curve | None = None
    gradient: Curve | None = None
    surface: Surface | None = None
    amp: tuple[Sharpness, ...] = ()
    sam: tuple[Sharpness, ...] = ()
    asam: tuple[Sharpness, ...] = ()
    eigenvalues: Eigenvalues | None = None
    trace: Trace | None = None


@dataclass(frozen=True, kw_only=True)
class CorruptionScores:
    """Accuracy on `count` images by corruption, at each of `severities`; `clean` without one, where it is known."""

    source: str
    seed: int | None
    count: int
    clean: float | None
    severities: tuple[int, ...]
    accuracy: dict[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        """Check that the lists fit together."""
        check_count(self.count)
        require(bool(self.accuracy) and bool(self.severities), "accuracy or severities is empty")
        for name, values in self.accuracy.items():
            require(len(values) == len(self.severities), f"accuracy.{name} and severities differ in length")
            check_fractions(**{f"accuracy.{name}": values})
        check_fractions(clean=self.clean)

    @property
    def by_corruption(self) -> dict[str, float]:
        """Mean accuracy over the severities, by corruption."""
        return {name: fmean(values) for name, values in self.accuracy.items()}

    @property
    def by_severity(self) -> dict[int, float]:
        """Mean accuracy over the corruptions, by severity."""
        columns = zip(*self.accuracy.values(), strict=True)
        return {severity: fmean(column) for severity, column in zip(self.severities, columns, strict=True)}

    @property
    def mean(self) -> float:
        """Mean accuracy over corruptions and severities."""
        return fmean(self.by_corruption.values())


@dataclass(frozen=True, kw_only=True)
class Corruptions:
    """Accuracy on corrupted test images: generated here, and those of CIFAR-10-C as published."""

    generated: CorruptionScores | None = None
    published: CorruptionScores | None = None


@dataclass(frozen=True, kw_only=True)
class AttackPart:
    """What one attack of several did: of the `attacked` images, correct until then, it `fooled` some.

    `forward` and `backward` count the images that went through the model.
    """

    name: str
    settings: dict[str, Any]
    attacked: int
    fooled: int
    forward: int
    backward: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """Accuracy on `count` images, as they are and under an attack within `budget` / 255; it took `seconds`.

    `robust_accuracy` is an upper bound of the accuracy against the worst change within the budget.
    """

    attack: str
    norm: str
    budget: float
    count: int
    clean_accuracy: float
    robust_accuracy: float
    precision: str
    seed: int
    seconds: float
    parts: tuple[AttackPart, ...] = ()

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_count(self.count)
        check_fractions(clean_accuracy=self.clean_accuracy, robust_accuracy=self.robust_accuracy)


@dataclass(frozen=True, kw_only=True)
class Check:
    """A sign that an attack is weak or that gradients are masked, if it did not pass; with what it looked at."""

    name: str
    passed: bool
    values: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Attacks:
    """Accuracy under attack, and whether the attacks are to be believed."""

    attacks: tuple[AttackResult, ...]
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TestSets:
    """Other test sets by name."""

    __test__ = False  # not one of pytest's

    sets: dict[str, Scores]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that was measured on the weights of one checkpoint, `last` or `best`, with this SHA-256."""

    checkpoint: str
    sha256: str
    classes: tuple[str, ...]
    calibration: Measurement[Calibration] | None = None
    errors: Measurement[Errors] | None = None
    flatness: Measurement[Flatness] | None = None
    corruptions: Measurement[Corruptions] | None = None
    attacks: Measurement[Attacks] | None = None
    test_sets: Measurement[TestSets] | None = None

    def __post_init__(self) -> None:
        """Check the checkpoint's name."""
        require(self.checkpoint in ("last", "best"), f"checkpoint is {self.checkpoint[:20]!r}, not last or best")


PARTS = tuple(field.name for field in fields(Evidence) if field.default is None)
"""The names of the measurements, in the order in which they are made: the quick ones first."""

EVIDENCE = "evidence.json"
"""The file beside the weights of the last epoch."""


def evidence_file(folder: Path, checkpoint: str) -> Path:
    """Return the file of the evidence of a checkpoint, `last` or `best`, in a run folder."""
    return folder / (EVIDENCE if checkpoint == "last" else f"evidence-{checkpoint}.json")


MEASUREMENTS = tuple(name for name in PARTS if name != "test_sets")
"""Those that any run can have: other test sets are there only for who has some."""

DIVISION = ("validation", "split_seed", "train_images")
"""The settings of the data that decide which images were trained on."""
