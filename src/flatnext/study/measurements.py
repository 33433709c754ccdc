"""The table of measurements: one row for each number that a finished run has.

Only what was measured with the same settings is compared. Those are a row's `images` and `conditions`: what the result
says of itself (steps, seed ...), and the single settings of its part of the evidence, but for those that change no
figure; of flatness, also which images were trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from flatnext.runs.class_balance import balanced_accuracy, f1_scores, is_uneven
from flatnext.runs.evidence import DIVISION, Attacks, Calibration, Corruptions, Flatness, TestSets
from flatnext.runs.records import CheckpointScores, RunRecord
from flatnext.study.groups import Group

PUBLISHED = "cifar10-c"
"""The name of the published corrupted images in the column `split`."""

NEUTRAL = frozenset({"autoattack", "batch_size", "cifar10_c", "data_dir", "device", "download", "threads", *DIVISION})
"""Settings that change a figure by rounding at most, or that only say whether there is a further one."""

Rows = Iterator["Measurement"]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One number of one run: one row of the table.

    Args:
        recipe: the label of the run's group.
        seed: the run's seed.
        split: `test`, `validation`, `train`, `cifar10-c`, or `test set NAME` for another one.
        measure: the id of the measure (`flatnext.study.measures`).
        at: the radius, severity or budget that it was taken at.
        value: fractions, not per cent; None where it was not finite.
        images: on how many images it was measured.
        conditions: what it depends on besides, by name.
    """

    recipe: str
    seed: int
    split: str
    measure: str
    at: float | None = None
    value: float | None
    images: int | None
    conditions: Mapping[str, Any] = field(default_factory=dict)


def measurements(groups: Iterable[Group]) -> tuple[Measurement, ...]:
    """Return the table of all runs."""
    return tuple(row for group in groups for run in group.runs for row in _of_run(group.label, run))


@dataclass(frozen=True, kw_only=True)
class _Row:
    """Makes rows that share a run, a split and conditions."""

    recipe: str
    seed: int
    split: str = "test"
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def on(self, split: str, conditions: Mapping[str, Any]) -> _Row:
        """Return the same on a split, with further conditions."""
        return replace(self, split=split, conditions={**self.conditions, **conditions})

    def __call__(self, measure: str, value: float | None, images: int | None, at: float | None = None) -> Measurement:
        return Measurement(
            recipe=self.recipe,
            seed=self.seed,
            split=self.split,
            measure=measure,
            at=at,
            value=value,
            images=images,
            conditions=self.conditions,
        )


def _of_run(recipe: str, run: RunRecord) -> Rows:
    row = _Row(recipe=recipe, seed=run.config.seed)
    yield from _checkpoint(row, run.result.last, "")
    if run.result.best is not None:
        yield from _checkpoint(row, run.result.best, ".best")
    yield from _by_class(row, run)
    yield from _training(row, run)
    for name, rows_of in EVIDENCE.items():
        if run.evidence and (part := getattr(run.evidence, name)) is not None:
            conditions = {**_single(part.settings), "checkpoint": run.evidence.checkpoint}
            yield from rows_of(row.on("test", conditions), part.result, run)


def _checkpoint(row: _Row, checkpoint: CheckpointScores, suffix: str) -> Rows:
    for split, scores in (("test", checkpoint.test), ("validation", checkpoint.validation)):
        if scores is not None:
            yield row.on(split, {})(f"accuracy{suffix}", scores.accuracy, scores.count)
            yield row.on(split, {})(f"loss{suffix}", scores.loss, scores.count)
    yield row.on("train", {})(f"epoch{suffix}", checkpoint.epoch, None)


def _by_class(row: _Row, run: RunRecord) -> Rows:
    """Yield the share of each class's test images that was recognised in the last epoch, their mean, and F1.

    F1 only of uneven classes: of even ones it says little that the share does not.
    """
    confusion = run.result.last.test.confusion
    if confusion is None:
        return
    yield row("balanced_accuracy", balanced_accuracy(confusion), run.result.last.test.count)
    for index, counts in enumerate(confusion):
        if total := sum(counts):
            yield row(f"recall.{run.environment.classes[index]}", counts[index] / total, total)
    if is_uneven(confusion):
        for name, score in zip(run.environment.classes, f1_scores(confusion), strict=True):
            if score is not None:
                yield row(f"f1.{name}", score, run.result.last.test.count)


def _training(row: _Row, run: RunRecord) -> Rows:
    """Yield the last epoch's training figures, and what training cost: of all epochs the median one counts."""
    sessions = {(s.device_name, s.threads, s.processes, s.torch) for s in run.environment.sessions}
    timed = row.on("train", {"machine": sorted(sessions), "precision": run.environment.precision})
    if run.epochs:
        row, images = row.on("train", {}), run.environment.train_images
        yield row("accuracy.augmented", run.epochs[-1].train_accuracy, images)
        yield row("loss.augmented", run.epochs[-1].train_loss, images)
        yield timed("seconds_per_epoch", median(epoch.train_seconds for epoch in run.epochs), None)
        yield timed("images_per_second", median(epoch.images_per_second for epoch in run.epochs), None)
    yield timed("train_seconds", run.result.train_seconds, None)


def _flatness(row: _Row, result: Flatness, run: RunRecord) -> Rows:
    row = row.on(result.split, _division(run, "flatness", *DIVISION, "calibration") if result.split == "train" else {})
    yield from _gap(row, result, run)
    for name in ("amp", "sam", "asam"):
        for ascent in getattr(result, name):
            inside = row.on(row.split, {"ball": ascent.ball, "steps": ascent.steps})
            yield inside(f"sharpness.{name}", ascent.increase, ascent.count, ascent.radius)
            if name == "amp" and ascent.distance is not None:
                yield inside("distance.amp", ascent.distance, ascent.count, ascent.radius)
    for along, curve in (("random", result.random), ("gradient", result.gradient)):
        if curve is not None:
            averaged = row.on(row.split, {"directions": len(curve.losses)})
            for radius, loss in zip(curve.radii, curve.mean, strict=True):
                rise = None if loss is None or curve.centre is None else loss - curve.centre
                yield averaged(f"rise.{along}", rise, curve.count, radius)
    if (values := result.eigenvalues) is not None:
        yield row("hessian.eigenvalue", values.values[0], values.count)
    if (trace := result.trace) is not None:
        yield row.on(row.split, {"probes": trace.probes})("hessian.trace", trace.trace, trace.count)


def _division(run: RunRecord, part: str, *names: str) -> dict[str, Any]:
    """Return how the training images were divided for a part of the evidence: as in training where it does not say."""
    measured = getattr(run.evidence, part, None)
    settings = measured.settings if measured else {}
    return {name: settings.get(name, getattr(run.config.data, name)) for name in names}


def _gap(row: _Row, result: Flatness, run: RunRecord) -> Rows:
    """Yield the loss on the training images that flatness was measured on, not augmented, and test loss minus that."""
    scores = run.result.last if run.evidence and run.evidence.checkpoint == "last" else run.result.best
    solution = result.random or result.gradient or result.surface
    if scores is None or solution is None or result.split != "train":
        return
    test, train = scores.test.loss, solution.centre
    yield row("loss", train, solution.count)
    yield row("loss.gap", None if test is None or train is None else test - train, solution.count)


def _calibration(row: _Row, result: Calibration, run: RunRecord) -> Rows:
    row = row.on("test", {"bins": result.bins})
    for measure in ("ece", "adaptive_ece", "nll", "brier"):
        yield row(measure, getattr(result, measure), result.count)
    if (scaled := result.scaled) is not None:
        division = _division(run, "calibration", "split_seed")
        row = row.on("test", {"validation images": scaled.validation_count, **division})
        yield row("temperature", scaled.temperature, result.count)
        for measure in ("ece", "adaptive_ece", "nll", "brier"):
            yield row(f"{measure}.scaled", getattr(scaled, measure), result.count)


def _corruptions(row: _Row, result: Corruptions, run: RunRecord) -> Rows:
    """Yield the accuracy under each corruption and at each severity, their means, and what the mean loses."""
    for split, scores in (("test", result.generated), (PUBLISHED, result.published)):
        if scores is None:
            continue
        how = {"corruptions": sorted(scores.accuracy), "severities": scores.severities, "seed": scores.seed}
        changed, images = row.on(split, how), scores.count
        yield changed("corruptions.mean", scores.mean, images)
        if scores.clean is not None:
            yield changed("corruptions.lost", scores.clean - scores.mean, images)
            yield changed("corruptions.mean", scores.clean, images, 0)
        for severity, accuracy in scores.by_severity.items():
            yield changed("corruptions.mean", accuracy, images, severity)
        for name, accuracies in scores.accuracy.items():
            yield changed(f"corruption.{name}", scores.by_corruption[name], images)
            for severity, accuracy in zip(scores.severities, accuracies, strict=True):
                yield changed(f"corruption.{name}", accuracy, images, severity)


def _attacks(row: _Row, result: Attacks, run: RunRecord) -> Rows:
    """Yield the accuracy without an attack and under each, and what each takes of it."""
    if result.attacks:
        most = max(result.attacks, key=lambda attack: attack.count)
        unattacked = row.on("test", {"precision": most.precision})
        yield unattacked("attack.none", most.clean_accuracy, most.count)
    for attack in result.attacks:
        attacked = row.on("test", {"precision": attack.precision, "seed": attack.seed})
        which, lost = f"{attack.attack}.{attack.norm}", attack.clean_accuracy - attack.robust_accuracy
        yield attacked(f"attack.{which}", attack.robust_accuracy, attack.count, attack.budget)
        yield attacked(f"lost.{which}", lost, attack.count, attack.budget)


def _test_sets(row: _Row, result: TestSets, run: RunRecord) -> Rows:
    """Yield the scores on each set. Its folder may be called `test`, so that its split has a name of its own."""
    part = run.evidence and run.evidence.test_sets
    digests = dict(zip(result.sets, part.settings.get("test_set_images", ()), strict=False) if part else ())
    for name, scores in result.sets.items():
        of_set = row.on(f"test set {name}", {"SHA-256 of the images": digests.get(name)})
        yield of_set("accuracy", scores.accuracy, scores.count)
        yield of_set("loss", scores.loss, scores.count)


EVIDENCE: dict[str, Callable[[_Row, Any, RunRecord], Rows]] = {
    "flatness": _flatness,
    "calibration": _calibration,
    "corruptions": _corruptions,
    "attacks": _attacks,
    "test_sets": _test_sets,
}


def _single(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the settings that are single values; of lists, the results say which item they are of."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _single(value, f"{prefix}{name}.")
        elif name not in NEUTRAL and isinstance(value, (str, int, float)) and value == value:  # not NaN
            flat[f"{prefix}{name}"] = value
    return flat
