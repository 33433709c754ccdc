"""What `flatnext evidence` would measure on a run, made up: AMP flatter and better calibrated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flatnext.config import Config
from flatnext.runs.evidence import (
    AttackResult,
    Attacks,
    Calibration,
    Check,
    Corruptions,
    CorruptionScores,
    Curve,
    Eigenvalues,
    Errors,
    Evidence,
    ExplainedMistake,
    Flatness,
    Measurement,
    Provenance,
    Reliability,
    Scaled,
    Sharpness,
    Surface,
    TestSets,
    Trace,
)
from flatnext.runs.scores import Scores
from flatnext.schema import dump

PARTS = ("calibration", "errors", "flatness", "corruptions", "attacks", "test_sets")

CORRUPTIONS = ("gaussian_noise", "defocus_blur", "snow", "contrast", "jpeg_compression")

STEEP = {"sgd": 1.0, "amp": 0.35, "momentum-amp": 0.6}
"""How steep the loss is around a method's solution."""

Png = Callable[[np.random.Generator], str]


def evidence(
    config: Config, classes: Sequence[str], confusion: np.ndarray, png: Png, parts: Sequence[str] = PARTS
) -> dict[str, Any]:
    """Return the content of `evidence.json` with these parts."""
    random = np.random.default_rng([7, config.seed, *config.recipe.encode()])
    steep = STEEP.get(config.method.name, 0.8) * math.exp(0.05 * random.standard_normal())
    accuracy = float(np.trace(confusion) / confusion.sum())
    makers = {
        "calibration": lambda: calibration(config, accuracy, steep, random),
        "errors": lambda: errors(confusion, accuracy, random, png),
        "flatness": lambda: flatness(steep, random),
        "corruptions": lambda: corruptions(accuracy, random),
        "attacks": lambda: attacks(accuracy, random),
        "test_sets": lambda: test_sets(accuracy, confusion),
    }
    results = {
        name: Measurement(settings={"seed": 0}, made=made(name), result=make())
        for name, make in makers.items()
        if name in parts
    }
    content = dump(Evidence(checkpoint="last", sha256="0" * 64, classes=tuple(classes), **results))
    return {
        **{name: content[name] for name in ("checkpoint", "sha256", "classes")},
        "parts": {name: content[name] for name in results},
    }


def made(name: str) -> Provenance:
    return Provenance(
        date="2026-11-23T12:00:00+00:00",
        command=f"flatnext evidence RUN --measurements {name}",
        device="cpu",
        threads=2,
        torch="2.13.0+cpu",
        seconds=12.5,
    )


def calibration(config: Config, accuracy: float, steep: float, random: np.random.Generator) -> Calibration:
    def scores(over: float) -> dict[str, Any]:
        noise = 0.0005 * abs(random.standard_normal())
        return {
            "nll": 3.3 * (1 - accuracy) + over,
            "brier": 1.55 * (1 - accuracy) + 0.2 * over,
            "ece": over + noise,
            "adaptive_ece": over + 0.8 * noise,
            "reliability": reliability(over, random),
        }

    over = 0.035 * steep**0.5
    scaled = Scaled(temperature=1 + 0.6 * steep**0.5, validation_count=5000, **scores(0.004))
    scaled = scaled if config.data.validation else None
    return Calibration(count=10_000, accuracy=accuracy, bins=15, scaled=scaled, **scores(over))


def reliability(over: float, random: np.random.Generator) -> Reliability:
    edges = np.linspace(0, 1, 16)
    counts = np.round(10_000 * edges[1:] ** 14 / (edges[1:] ** 14).sum()).astype(int)
    middle = (edges[1:] + edges[:-1]) / 2
    right = np.clip(middle - 5 * over * middle * (1 - middle) + 0.01 * random.standard_normal(15), 0, 1)
    return Reliability(
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        confidence=tuple(None if n == 0 else float(value) for value, n in zip(middle, counts, strict=True)),
        accuracy=tuple(None if n == 0 else float(value) for value, n in zip(right, counts, strict=True)),
    )


def errors(confusion: np.ndarray, accuracy: float, random: np.random.Generator, png: Png) -> Errors:
    pairs = [(i, j) for i, j in np.argwhere(confusion) if i != j]
    mistakes = tuple(
        ExplainedMistake(
            index=int(random.integers(confusion.sum())),
            label=int(label),
            predicted=int(predicted),
            confidence=0.999 - 0.01 * place,
            png=png(random),
            cam=png(random),
            cam_label=png(random),
        )
        for place, (label, predicted) in enumerate(pairs[k] for k in random.integers(len(pairs), size=12))
    )
    matrix = tuple(map(tuple, confusion.tolist()))
    return Errors(count=int(confusion.sum()), accuracy=accuracy, confusion=matrix, mistakes=mistakes)


def flatness(steep: float, random: np.random.Generator) -> Flatness:
    centre, images = 0.004 / steep**0.3, 2000

    def curve(radii: Sequence[float], power: float, directions: int) -> Curve:
        noise = np.exp(0.1 * random.standard_normal((directions, len(radii))))
        losses = centre + 2 * steep * np.array(radii) ** power * noise
        return Curve(
            radii=tuple(radii),
            unit=40.0,
            centre=centre,
            mean=tuple(losses.mean(axis=0).tolist()),
            losses=tuple(map(tuple, losses.tolist())),
            count=images,
        )

    def ascent(ball: str, radius: float, rise: float, distance: float) -> Sharpness:
        increase = rise * steep * radius * math.exp(0.08 * random.standard_normal())
        ends = {"loss": centre, "worst": centre + increase, "increase": increase}
        return Sharpness(ball=ball, radius=radius, steps=1, distance=distance, count=images, **ends)

    largest = 60 * steep * math.exp(0.1 * random.standard_normal())
    return Flatness(
        random=curve((0.02, 0.05, 0.1, 0.2, 0.3, 0.5), 2, 5),
        gradient=curve((0.05, 0.1, 0.2, 0.5), 1.5, 1),
        surface=surface(centre, steep, images),
        amp=tuple(ascent("tensor", radius, 0.2, 0.01 * steep) for radius in (0.1, 0.5, 1.0)),
        sam=tuple(ascent("global", radius, 1.5, radius) for radius in (0.05, 0.1)),
        asam=tuple(ascent("adaptive", radius, 0.1, radius) for radius in (0.5, 2.0)),
        eigenvalues=Eigenvalues(values=(largest, 0.6 * largest), residuals=(0.01, 0.02), converged=True, count=500),
        trace=Trace(trace=25 * largest, standard_error=30.0, probes=10, count=500),
    )


def surface(centre: float, steep: float, images: int) -> Surface:
    positions = np.linspace(-1, 1, 11)
    a, b = np.meshgrid(positions, positions, indexing="ij")
    losses = centre + 2.5 * (1 - np.exp(-2 * steep * (a**2 + 0.7 * b**2 + 0.4 * a * b + 0.3 * a**2 * b)))
    rows = tuple(map(tuple, losses.tolist()))
    return Surface(positions=tuple(positions.tolist()), centre=centre, losses=rows, count=images)


def corruptions(accuracy: float, random: np.random.Generator) -> Corruptions:
    table = {
        name: tuple(
            accuracy - 0.02 * severity * (1 + place) / 2 - 0.004 * abs(random.standard_normal())
            for severity in range(1, 6)
        )
        for place, name in enumerate(CORRUPTIONS)
    }
    scores = {"source": "generated", "seed": 0, "count": 2000, "clean": accuracy, "severities": (1, 2, 3, 4, 5)}
    return Corruptions(generated=CorruptionScores(accuracy=table, **scores))


def attacks(accuracy: float, random: np.random.Generator) -> Attacks:
    def attack(name: str, norm: str, budget: float, left: float, seconds: float) -> AttackResult:
        return AttackResult(
            attack=name,
            norm=norm,
            budget=budget,
            count=1000,
            clean_accuracy=accuracy,
            robust_accuracy=max(0.0, accuracy * left + 0.01 * random.standard_normal()),
            precision="fp32",
            seed=0,
            seconds=seconds,
        )

    return Attacks(
        attacks=(
            attack("fgsm", "linf", 1.0, 0.5, 2.0),
            attack("pgd", "linf", 1.0, 0.3, 20.0),
            attack("autoattack", "linf", 1.0, 0.25, 160.0),
            attack("fgsm", "linf", 8.0, 0.15, 2.0),
            attack("pgd", "linf", 8.0, 0.0, 20.0),
            attack("pgd", "l2", 32.0, 0.4, 20.0),
        ),
        checks=(
            Check(name="FGSM is weaker than PGD", passed=True, values={"fgsm": 0.5, "pgd": 0.3}),
            Check(name="every image has a gradient", passed=True, values={"without": 0.0}),
        ),
    )


def test_sets(accuracy: float, confusion: np.ndarray) -> TestSets:
    matrix = tuple(map(tuple, confusion.tolist()))
    scores = Scores(loss=0.6, accuracy=accuracy - 0.08, count=int(confusion.sum()), confusion=matrix)
    return TestSets(sets={"cifar10.1_v6": scores})


test_sets.__test__ = False  # type: ignore[attr-defined]  # not one of pytest's
