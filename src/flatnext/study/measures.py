"""What is measured on a run, as a table of numbers: each with its unit, the direction that is better, and the settings.

Only what was measured with the same settings is compared. Those are the conditions of a `Sample`: what the result says
of itself (number of images, steps, seed ...), and the single settings of its part, but for those that change no figure;
of flatness, also which images were trained on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from flatnext.runs.evidence import AttackResult, CorruptionScores, Curve, Flatness, Part, Scaled, Sharpness
from flatnext.runs.records import RunRecord

DIVISION = ("validation", "split_seed", "train_images")

NEUTRAL = frozenset({"autoattack", "batch_size", "cifar10_c", "data_dir", "device", "download", "threads", *DIVISION})
"""Settings that change a figure by rounding at most, or that only say whether there is a further one; and those that
divide the training images, which what depends on them names itself."""

NORMS = {"linf": "L∞", "l2": "L2"}

Direction = Literal["higher", "lower"]


@dataclass(frozen=True)
class Measure:
    """A number that a run has. `better` is None where neither direction is; `at` is the radius or budget, if any.

    `scale` makes a fraction per cent; with `digits` None the number of decimals follows the values.
    """

    kind: str
    name: str
    better: Direction | None
    unit: str = ""
    scale: float = 1.0
    digits: int | None = None
    at: float | None = None


@dataclass(frozen=True)
class Sample:
    """A measure's value in one run, None where it was not finite, on `count` images, and what it depends on."""

    value: float | None
    count: int | None
    conditions: Mapping[str, Any]


Found = Iterator[tuple[Measure, Sample]]


def _percent(kind: str, name: str, better: Direction | None = "higher", at: float | None = None) -> Measure:
    return Measure(kind, name, better, "%", 100.0, 2, at)


def training(run: RunRecord) -> Found:
    """Yield what training itself left: test accuracy and loss of the last epoch, and the median epoch's seconds."""
    test = run.result.last.test
    yield _percent("accuracy", "test accuracy"), Sample(test.accuracy, test.count, {})
    yield Measure("loss", "test loss", "lower", digits=4), Sample(test.loss, test.count, {})
    if run.epochs:
        sessions = {(s.device_name, s.threads, s.processes, s.torch) for s in run.environment.sessions}
        machine = {"machine": sorted(sessions), "precision": run.environment.precision}
        seconds = median(epoch.train_seconds for epoch in run.epochs)
        yield Measure("seconds", "seconds an epoch", "lower", "s", digits=2), Sample(seconds, None, machine)


def flatness(run: RunRecord) -> Found:
    """Yield training loss and generalisation gap, sharpness, the rise of the loss along directions, and the Hessian."""
    if (part := _part(run, "flatness")) is None:
        return
    result: Flatness = part.result
    yield from _gap(run, part)
    for kind, label in (("amp", "AMP"), ("sam", "SAM"), ("asam", "ASAM")):
        for one in getattr(result, kind):
            yield _sharpness(run, part, kind, label, one)
            if kind == "amp" and one.distance is not None:
                # Not normed: near a minimum it is much shorter than the radius, which only bounds it.
                measure = Measure(
                    "distance.amp", f"AMP's step at radius {one.radius:g}: distance gone", None, at=one.radius
                )
                yield measure, _sample(run, part, one.distance, one.count, ball=one.ball, steps=one.steps)
    for curve, along in ((result.random, "random"), (result.gradient, "gradient")):
        if curve is not None:
            yield from _rises(run, part, curve, along)
    if (values := result.eigenvalues) is not None:
        measure = Measure("eigenvalue", "largest Hessian eigenvalue", "lower")
        yield measure, _sample(run, part, values.values[0], values.count)
    if (trace := result.trace) is not None:
        measure = Measure("trace", "trace of the Hessian", "lower")
        yield measure, _sample(run, part, trace.trace, trace.count, probes=trace.probes)


def _gap(run: RunRecord, part: Part[Flatness]) -> Found:
    """Yield the loss on the training images that flatness was measured on, not augmented, and test loss minus that."""
    scores = run.result.last if run.evidence and run.evidence.checkpoint == "last" else run.result.best
    centres = [c for c in (part.result.random, part.result.gradient, part.result.surface) if c is not None]
    if scores is None or not centres or part.result.split != "train":
        return
    test, train = scores.test.loss, centres[0].centre
    gap = None if test is None or train is None else test - train
    measure = Measure("train loss", "loss on training images as they are", "lower", digits=4)
    yield measure, _sample(run, part, train, centres[0].count)
    measure = Measure("gap", "test loss − loss on training images as they are", "lower", digits=4)
    yield measure, _sample(run, part, gap, centres[0].count)


def _sharpness(run: RunRecord, part: Part[Any], kind: str, label: str, one: Sharpness) -> tuple[Measure, Sample]:
    measure = Measure(f"sharpness.{kind}", f"{label} sharpness, radius {one.radius:g}", "lower", at=one.radius)
    return measure, _sample(run, part, one.increase, one.count, ball=one.ball, steps=one.steps)


def _rises(run: RunRecord, part: Part[Any], curve: Curve, along: str) -> Found:
    where = "random directions" if along == "random" else "the gradient"
    for radius, mean in zip(curve.radii, curve.mean, strict=True):
        rise = None if mean is None or curve.centre is None else mean - curve.centre
        measure = Measure(f"rise.{along}", f"rise along {where}, radius {radius:g}", "lower", at=radius)
        yield measure, _sample(run, part, rise, curve.count, directions=len(curve.losses))


def calibration(run: RunRecord) -> Found:
    """Yield calibration before and after temperature scaling, and the temperature."""
    if (part := _part(run, "calibration")) is None:
        return
    result = part.result
    yield from _calibrated(run, part, result, "")
    if result.scaled is not None:
        images = {"validation images": result.scaled.validation_count}
        measure = Measure("temperature", "temperature", None, digits=3)
        yield measure, _sample(run, part, result.scaled.temperature, result.count, **images)
        yield from _calibrated(run, part, result.scaled, " after scaling", **images)


def _calibrated(run: RunRecord, part: Part[Any], scores: Any, when: str, **conditions: Any) -> Found:
    kinds = {"ece": "ECE", "adaptive_ece": "adaptive ECE", "nll": "NLL", "brier": "Brier score"}
    scaled = ".scaled" if isinstance(scores, Scaled) else ""
    for kind, name in kinds.items():
        measure = Measure(f"{kind}{scaled}", f"{name}{when}", "lower", digits=4)
        value, count = getattr(scores, kind), part.result.count
        yield measure, _sample(run, part, value, count, bins=part.result.bins, **conditions)


def corruptions(run: RunRecord) -> Found:
    """Yield the mean corruption accuracy, and what of the clean accuracy is lost, of each source."""
    for source, scores, conditions in _corrupted(run):
        mean = _percent(f"corruptions.{source}", f"mean corruption accuracy, {source}")
        yield mean, Sample(scores.mean, scores.count, conditions)
        if scores.clean is not None:
            lost = _percent("corruptions.lost", f"accuracy lost to corruption, {source}", "lower")
            yield lost, Sample(scores.clean - scores.mean, scores.count, conditions)


def by_corruption(run: RunRecord) -> Found:
    """Yield the accuracy under each corruption, mean over the severities."""
    for source, scores, conditions in _corrupted(run):
        for name, accuracy in scores.by_corruption.items():
            measure = _percent(f"corruption.{source}", name.replace("_", " "))
            yield measure, Sample(accuracy, scores.count, conditions)


def by_severity(run: RunRecord) -> Found:
    """Yield the accuracy at each severity, mean over the corruptions, after that on the images as they are."""
    for source, scores, conditions in _corrupted(run):
        if scores.clean is not None:
            yield _percent(f"severity.{source}", "no corruption", at=0), Sample(scores.clean, scores.count, conditions)
        for severity, accuracy in scores.by_severity.items():
            measure = _percent(f"severity.{source}", f"severity {severity}", at=severity)
            yield measure, Sample(accuracy, scores.count, conditions)


def _corrupted(run: RunRecord) -> Iterator[tuple[str, CorruptionScores, Mapping[str, Any]]]:
    if (part := _part(run, "corruptions")) is None:
        return
    for source in ("generated", "published"):
        if (scores := getattr(part.result, source)) is not None:
            names = {"corruptions": sorted(scores.accuracy), "severities": scores.severities, "seed": scores.seed}
            yield source, scores, _conditions(run, part, scores.count, names)


def attacks(run: RunRecord) -> Found:
    """Yield the accuracy on the images as they are, under each attack at each budget, and what each takes of it."""
    if (part := _part(run, "attacks")) is None:
        return
    for count, accuracy in dict.fromkeys((attack.count, attack.clean_accuracy) for attack in part.result.attacks):
        yield _percent("clean", f"no attack, {count:,} images"), _sample(run, part, accuracy, count)
    for attack in part.result.attacks:
        measure = _percent(f"attack.{attack.attack}.{attack.norm}", attack_name(attack), at=attack.budget)
        yield measure, _attacked(run, part, attack, attack.robust_accuracy)
    for attack in part.result.attacks:
        measure = _percent(
            f"lost.{attack.attack}.{attack.norm}", lost_name(attack_name(attack)), "lower", attack.budget
        )
        yield measure, _attacked(run, part, attack, attack.clean_accuracy - attack.robust_accuracy)


def _attacked(run: RunRecord, part: Part[Any], attack: AttackResult, value: float) -> Sample:
    return _sample(run, part, value, attack.count, precision=attack.precision, seed=attack.seed)


def attack_name(attack: AttackResult) -> str:
    """Return `pgd, L∞ 8/255`."""
    return f"{attack.attack}, {NORMS.get(attack.norm, attack.norm)} {attack.budget:g}/255"


def lost_name(attack: str) -> str:
    """Return the name of what an attack takes of the accuracy."""
    return f"accuracy lost to {attack}"


def test_sets(run: RunRecord) -> Found:
    """Yield the accuracy on each other test set."""
    if (part := _part(run, "test_sets")) is None:
        return
    for name, scores in part.result.sets.items():
        yield _percent("test set", name), _sample(run, part, scores.accuracy, scores.count)


test_sets.__test__ = False  # type: ignore[attr-defined]  # not one of pytest's

Family = Callable[[RunRecord], Found]


def _part(run: RunRecord, name: str) -> Part[Any] | None:
    return getattr(run.evidence, name) if run.evidence is not None else None


def _sample(run: RunRecord, part: Part[Any], value: float | None, count: int, **own: Any) -> Sample:
    images = _drawn_from(run, part.result) if isinstance(part.result, Flatness) else {}
    return Sample(value, count, _conditions(run, part, count, {**images, **own}))


def _drawn_from(run: RunRecord, result: Flatness) -> dict[str, Any]:
    """Return what says which images flatness was measured on: the training split depends on the run's own settings."""
    own = {name: getattr(run.config.data, name) for name in DIVISION} if result.split == "train" else {}
    return {"split": result.split, **own}


def _conditions(run: RunRecord, part: Part[Any], count: int, own: Mapping[str, Any]) -> Mapping[str, Any]:
    checkpoint = run.evidence.checkpoint if run.evidence else None
    return {**_single(part.settings), "checkpoint": checkpoint, "images": count, **own}


def _single(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the settings that are single values; of lists, the results say which item they are of."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _single(value, f"{prefix}{name}.")
        elif name not in NEUTRAL and isinstance(value, (str, int, float)) and not _is_nan(value):
            flat[f"{prefix}{name}"] = value
    return flat


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
