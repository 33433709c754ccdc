"""What was measured on one run after training, `evidence.json`, as frozen values that are checked when made.

What is None was not measured, or was not finite. Each part keeps its settings and how it was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Generic, TypeVar

T = TypeVar("T")

Values = tuple[float | None, ...]

ROUNDING = 1e-6
"""A mean of confidences may exceed 1 by as little."""

PARTS = ("calibration", "errors", "flatness", "corruptions", "attacks", "test_sets")


@dataclass(frozen=True, kw_only=True)
class Made:
    """How a part was measured."""

    date: str
    command: str
    device: str
    threads: int
    torch: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Part(Generic[T]):
    """One part of the evidence."""

    settings: dict[str, Any]
    made: Made
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
        _require(len(self.counts) > 0 and min(self.counts) >= 0, "counts has no bins, or one below zero")
        _require(len(self.edges) == len(self.counts) + 1, "edges are not one more than counts")
        _require(len(self.confidence) == len(self.accuracy) == len(self.counts), "the lists differ in length")
        for count, mean, right in zip(self.counts, self.confidence, self.accuracy, strict=True):
            _require((count == 0) == (mean is None) == (right is None), "a bin is null and has images, or the reverse")
        _fractions(confidence=self.confidence, accuracy=self.accuracy)


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
        _counted(self.count)
        _fractions(accuracy=self.accuracy)


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A misclassified image, with Grad-CAM maps over it of the predicted and of the true class; PNG files in base64."""

    index: int
    label: int
    predicted: int
    confidence: float
    png: str
    cam: str | None = None
    cam_label: str | None = None

    def __post_init__(self) -> None:
        """Check the confidence."""
        _fractions(confidence=self.confidence)


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Errors on `count` test images; `confusion` by true class (row), the surest mistakes first."""

    count: int
    accuracy: float
    confusion: tuple[tuple[int, ...], ...]
    mistakes: tuple[Explained, ...]

    def __post_init__(self) -> None:
        """Check the ranges."""
        _counted(self.count)
        _fractions(accuracy=self.accuracy)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Loss at `radii` from the solution, by direction and on average; `centre` at the solution, on `count` images."""

    radii: tuple[float, ...]
    unit: float | None
    centre: float | None
    mean: Values
    losses: tuple[Values, ...]
    count: int

    def __post_init__(self) -> None:
        """Check that the lists fit together."""
        _counted(self.count)
        _require(len(self.radii) > 0, "radii is empty")
        _require(len(self.losses) > 0, "losses is empty")
        rows = [len(row) for row in (self.mean, *self.losses)]
        _require(set(rows) == {len(self.radii)}, "radii, mean and losses differ in length")


@dataclass(frozen=True, kw_only=True)
class Surface:
    """Loss on a plane through the solution: `losses[i][j]` at `positions[i]`, `positions[j]`; on `count` images."""

    positions: tuple[float, ...]
    centre: float | None
    losses: tuple[Values, ...]
    count: int

    def __post_init__(self) -> None:
        """Check that it is a grid."""
        _counted(self.count)
        size = len(self.positions)
        _require(size >= 3 and list(self.positions) == sorted(set(self.positions)), "positions do not rise")
        _require([len(row) for row in self.losses] == [size] * size, f"losses is not {size} by {size}")


@dataclass(frozen=True, kw_only=True)
class Sharpness:
    """The largest rise of the loss that `steps` of an ascent found in a ball around the weights; on `count` images.

    It was found at a `distance` (L2 norm over all weights) from them; None where that was not kept.
    """

    ball: str
    radius: float
    steps: int
    loss: float | None
    worst: float | None
    increase: float | None
    count: int
    distance: float | None = None

    def __post_init__(self) -> None:
        """Check the number of images."""
        _counted(self.count)


@dataclass(frozen=True, kw_only=True)
class Eigenvalues:
    """The largest eigenvalues of the Hessian on `count` images, each within its residual of one."""

    values: Values
    converged: bool
    count: int
    residuals: Values = ()

    def __post_init__(self) -> None:
        """Check that there is one."""
        _counted(self.count)
        _require(len(self.values) > 0, "values is empty")


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The trace of the Hessian on `count` images, from `probes` random vectors, with its standard error."""

    trace: float | None
    standard_error: float | None
    probes: int
    count: int

    def __post_init__(self) -> None:
        """Check the number of images."""
        _counted(self.count)


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
        _counted(self.count)
        _require(bool(self.accuracy) and bool(self.severities), "accuracy or severities is empty")
        for name, values in self.accuracy.items():
            _require(len(values) == len(self.severities), f"accuracy.{name} and severities differ in length")
            _fractions(**{f"accuracy.{name}": values})
        _fractions(clean=self.clean)

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
class Attack:
    """Accuracy on `count` images under an attack within `budget` / 255, an upper bound; it took `seconds`."""

    attack: str
    norm: str
    budget: float
    count: int
    clean_accuracy: float
    robust_accuracy: float
    precision: str
    seed: int
    seconds: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        _counted(self.count)
        _fractions(clean_accuracy=self.clean_accuracy, robust_accuracy=self.robust_accuracy)


@dataclass(frozen=True, kw_only=True)
class Check:
    """A sign that an attack is weak or that gradients are masked, if it did not pass; with what it looked at."""

    name: str
    passed: bool
    values: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Attacks:
    """Accuracy under attack, and whether the attacks are to be believed."""

    attacks: tuple[Attack, ...]
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TestSet:
    """Scores on another test set."""

    __test__ = False  # not one of pytest's

    loss: float | None
    accuracy: float
    count: int
    confusion: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        """Check the ranges."""
        _counted(self.count)
        _fractions(accuracy=self.accuracy)


@dataclass(frozen=True, kw_only=True)
class TestSets:
    """Other test sets by name."""

    __test__ = False

    sets: dict[str, TestSet]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that was measured on the weights of one checkpoint, `last` or `best`, with this SHA-256."""

    checkpoint: str
    sha256: str
    classes: tuple[str, ...]
    calibration: Part[Calibration] | None = None
    errors: Part[Errors] | None = None
    flatness: Part[Flatness] | None = None
    corruptions: Part[Corruptions] | None = None
    attacks: Part[Attacks] | None = None
    test_sets: Part[TestSets] | None = None

    def __post_init__(self) -> None:
        """Check the checkpoint's name."""
        _require(self.checkpoint in ("last", "best"), f"checkpoint is {self.checkpoint[:20]!r}, not last or best")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


def _counted(count: int) -> None:
    _require(count > 0, f"count is {count}")


def _fractions(**values: float | Sequence[float | None] | None) -> None:
    for name, found in values.items():
        for each in found if isinstance(found, Sequence) else (found,):
            _require(each is None or -ROUNDING <= each <= 1 + ROUNDING, f"{name} holds {each}, no fraction")
