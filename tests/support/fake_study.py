"""Study folders as training would leave them, made up in milliseconds. No torch, no training."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from fake_evidence import evidence as made_evidence
from PIL import Image

from flatnext.config import Config, recipe
from flatnext.runs.records import CheckpointScores, Environment, Epoch, Failure, Result, Session
from flatnext.runs.scores import Mistake, Scores
from flatnext.schema import dump
from flatnext.study.reading import read_study
from flatnext.study.study import Study

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

LEVELS = {"sgd": 0.940, "amp": 0.949, "report-amp": 0.931}
"""Test accuracy around which a recipe's runs lie."""


def write_study(
    root: Path,
    recipes: Sequence[str] = ("sgd", "amp"),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    **options: Any,
) -> Path:
    """Write a whole study and return its folder; `options` go to `write_run`."""
    command = f"flatnext study --recipes {' '.join(recipes)} --seeds {len(seeds)}"
    for name in recipes:
        for seed in seeds:
            write_run(root / name / f"seed-{seed}", replace(recipe(name), seed=seed), command=command, **options)
    write_json(root / "study.json", {"command": command, "recipes": list(recipes), "seeds": list(seeds)})
    return root


def small_study(root: Path, recipes: Sequence[str] = ("sgd", "amp"), seeds: int = 3, **options: Any) -> Path:
    """Write a study of two classes and two epochs and return its folder."""
    return write_study(root, recipes, range(seeds), epochs=2, classes=("cat", "dog"), test_images=200, **options)


def edit_evidence(
    folder: Path, edit: Callable[[dict[str, Any], int], None], recipes: Sequence[str] = ("amp",)
) -> Study:
    """Edit the parts of the evidence of each run of some recipes, given its seed, and read the study again."""
    for name in recipes:
        for file in sorted((folder / name).glob("*/evidence.json")):
            whole = json.loads(file.read_text())
            edit(whole["parts"], int(file.parent.name.removeprefix("seed-")))
            write_json(file, whole)
    return read_study([folder])


def write_run(
    folder: Path,
    config: Config,
    *,
    classes: Sequence[str] = CLASSES,
    epochs: int = 8,
    test_images: int = 10_000,
    accuracy: float | None = None,
    validation: bool = True,
    test_curve: bool = True,
    finished: bool = True,
    error: str | None = None,
    command: str = "",
    evidence: Sequence[str] = (),
    confused: Sequence[Sequence[int]] | None = None,
) -> None:
    """Write one run folder. `accuracy` is the test accuracy of the last epoch (default: near the recipe's level).

    `confused` is its confusion matrix (default: one of that accuracy). `evidence` names the parts that were measured
    after training; none, and there is no `evidence.json`.
    """
    folder.mkdir(parents=True)
    schedule = replace(config.schedule, warmup_epochs=0.0)  # a warm-up must fit in the epochs
    data = replace(config.data, validation=5000 if validation else 0)
    config = replace(config, epochs=epochs, schedule=schedule, data=data)
    command = command or f"flatnext train --recipe {config.recipe} --seed {config.seed}"
    write_json(folder / "config.json", config.to_json())
    write_json(folder / "environment.json", dump(environment(config, command, classes, test_images)))
    random = np.random.default_rng([config.seed, *config.recipe.encode()])
    if accuracy is None:
        shared = 0.002 * np.random.default_rng(config.seed).standard_normal()
        accuracy = LEVELS.get(config.recipe, 0.92) + shared + 0.001 * random.standard_normal()
    matrix = np.array(confused) if confused else confusion(accuracy, len(classes), test_images, random)
    reached = float(np.trace(matrix) / matrix.sum())
    done = epochs if finished else epochs // 2
    lines = [metrics(epoch, config, reached, random, test_curve) for epoch in range(1, done + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(dump(line)) + "\n" for line in lines))
    if error is not None:
        write_json(folder / "failure.json", dump(Failure(error=error, epoch=done, step=352 * done)))
    elif finished:
        write_json(folder / "result.json", dump(result(lines, matrix, validation, random)))
    if evidence:
        write_json(folder / "evidence.json", made_evidence(config, classes, matrix, png, evidence))


def write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def environment(config: Config, command: str, classes: Sequence[str], test_images: int) -> Environment:
    machine: dict[str, Any] = {"torch": "2.13.0+cpu", "device_name": "AMD EPYC", "threads": 2}
    started = f"2026-11-23T{5 + config.seed:02d}:00:00+00:00"
    return Environment(
        **machine,
        flatnext="0.1.0",
        python="3.11.7",
        numpy="2.4.6",
        platform="Linux-6.1-x86_64",
        device="cpu",
        precision="bf16",
        parameters=4_761_770,
        train_images=config.data.train_images or 50_000 - config.data.validation,
        validation_images=config.data.validation,
        test_images=test_images,
        classes=tuple(classes),
        sessions=(Session(command=command, started=started, **machine),),
    )


def confusion(accuracy: float, classes: int, images: int, random: np.random.Generator) -> np.ndarray:
    """Return counts whose diagonal holds `accuracy` of the images, errors falling mostly on a few classes."""
    per_class = images // classes
    liking = np.random.default_rng(1).gamma(0.4, size=(classes, classes)) + 0.02
    np.fill_diagonal(liking, 0)
    liking /= liking.sum(axis=1, keepdims=True)
    hardness = np.random.default_rng(2).gamma(3.0, size=classes)
    wrong = np.round((1 - accuracy) * images * hardness / hardness.sum()).astype(int).clip(0, per_class)
    matrix = np.array([random.multinomial(count, row) for count, row in zip(wrong, liking, strict=True)])
    matrix[np.diag_indices(classes)] = per_class - wrong
    return matrix


def metrics(epoch: int, config: Config, level: float, random: np.random.Generator, test_curve: bool) -> Epoch:
    progress = epoch / config.epochs
    amp = config.method.name == "amp"
    test = level - (level - 0.35) * (1 - progress) ** 2.5 + 0.01 * (1 - progress) * random.standard_normal()
    train = min(1.0, test + (0.01 if amp else 0.045) * progress)
    return Epoch(
        epoch=epoch,
        step=352 * epoch,
        learning_rate=0.1 * (1 - progress),
        train_loss=3.2 * (1 - train) + 0.02,
        train_accuracy=train,
        validation_loss=3.6 * (1 - test) + 0.05 if config.data.validation else None,
        validation_accuracy=test - 0.002 if config.data.validation else None,
        test_loss=3.5 * (1 - test) + 0.05 if test_curve else None,
        test_accuracy=test if test_curve else None,
        train_seconds=(930 if amp else 480) + 5 * random.standard_normal(),
        evaluation_seconds=20.0 if test_curve or config.data.validation else 0.0,
        images_per_second=48.0 if amp else 94.0,
    )


def result(lines: list[Epoch], matrix: np.ndarray, validation: bool, random: np.random.Generator) -> Result:
    accuracy = float(np.trace(matrix) / matrix.sum())
    loss, rows = 3.5 * (1 - accuracy) + 0.05, tuple(map(tuple, matrix.tolist()))
    held_out = Scores(loss=loss + 0.01, accuracy=accuracy - 0.002, count=5000) if validation else None

    def checkpoint(epoch: int) -> CheckpointScores:
        test = Scores(loss=loss, accuracy=accuracy, count=int(matrix.sum()), confusion=rows)
        return CheckpointScores(epoch=epoch, validation=held_out, test=test)

    epochs = len(lines)
    return Result(
        last=checkpoint(epochs),
        best=checkpoint(max(1, epochs - int(random.integers(3)))) if validation else None,
        mistakes=mistakes(matrix, random),
        train_seconds=sum(line.train_seconds for line in lines),
        images_per_second=lines[-1].images_per_second,
    )


def mistakes(matrix: np.ndarray, random: np.random.Generator) -> tuple[Mistake, ...]:
    pairs = [(i, j) for i, j in np.argwhere(matrix) if i != j]
    chosen = [pairs[k] for k in random.integers(len(pairs), size=24)] if pairs else []
    confidences = np.sort(1 - 0.1 * random.random(len(chosen)) ** 3)[::-1]
    return tuple(
        Mistake(
            index=int(random.integers(matrix.sum())),
            label=int(label),
            predicted=int(predicted),
            confidence=float(confidence),
            png=png(random),
        )
        for (label, predicted), confidence in zip(chosen, confidences, strict=True)
    )


def png(random: np.random.Generator) -> str:
    """Return a blurred 32 x 32 colour picture, a PNG file in base64."""
    small = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((32, 32), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
