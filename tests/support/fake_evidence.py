"""An `evidence.json` as `flatnext evaluate --parts` would write it, made up: AMP flatter and better calibrated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flatnext.config import Config

PARTS = ("calibration", "errors", "flatness", "corruptions", "attacks", "test_sets")

CORRUPTIONS = ("gaussian_noise", "defocus_blur", "snow", "contrast", "jpeg_compression")

STEEP = {"sgd": 1.0, "amp": 0.35, "momentum-amp": 0.6}
"""How steep the loss is around a method's solution."""


def evidence(
    config: Config,
    classes: Sequence[str],
    confusion: np.ndarray,
    png: Callable[[np.random.Generator], str],
    parts: Sequence[str] = PARTS,
    images: int = 2000,
    **settings: dict[str, Any],
) -> dict[str, Any]:
    """Return the content of the file; `settings` are those of parts, by the part's name."""
    random = np.random.default_rng([7, config.seed, *config.recipe.encode()])
    steep = STEEP.get(config.method.name, 0.8) * math.exp(0.05 * random.standard_normal())
    accuracy = float(np.trace(confusion) / confusion.sum())
    makers = {
        "calibration": lambda: calibration(config, accuracy, steep, random),
        "errors": lambda: errors(confusion, accuracy, random, png),
        "flatness": lambda: flatness(steep, images, random),
        "corruptions": lambda: corruptions(accuracy, images, random),
        "attacks": lambda: attacks(accuracy, images, random),
        "test_sets": lambda: test_sets(accuracy, confusion),
    }
    return {
        "checkpoint": "last",
        "sha256": "0" * 64,
        "classes": list(classes),
        "parts": {
            name: {"settings": settings.get(name, {"seed": 0}), "made": made(name), "result": makers[name]()}
            for name in PARTS
            if name in parts
        },
    }


def made(name: str) -> dict[str, Any]:
    return {
        "date": "2026-11-23T12:00:00+00:00",
        "command": f"flatnext evaluate RUN --parts {name}",
        "device": "cpu",
        "threads": 2,
        "torch": "2.13.0+cpu",
        "seconds": 12.5,
    }


def calibration(config: Config, accuracy: float, steep: float, random: np.random.Generator) -> dict[str, Any]:
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
    scaled = {"temperature": 1 + 0.6 * steep**0.5, "validation_count": 5000, **scores(0.004)}
    return {
        "count": 10_000,
        "accuracy": accuracy,
        **scores(over),
        "bins": 15,
        "scaled": scaled if config.data.validation else None,
    }


def reliability(over: float, random: np.random.Generator) -> dict[str, Any]:
    edges = np.linspace(0, 1, 16)
    counts = np.round(10_000 * edges[1:] ** 14 / (edges[1:] ** 14).sum()).astype(int)
    middle = (edges[1:] + edges[:-1]) / 2
    right = np.clip(middle - 5 * over * middle * (1 - middle) + 0.01 * random.standard_normal(15), 0, 1)
    empty = counts == 0
    return {
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "confidence": [None if gone else float(value) for value, gone in zip(middle, empty, strict=True)],
        "accuracy": [None if gone else float(value) for value, gone in zip(right, empty, strict=True)],
    }


def errors(
    confusion: np.ndarray, accuracy: float, random: np.random.Generator, png: Callable[[np.random.Generator], str]
) -> dict[str, Any]:
    pairs = [(i, j) for i, j in np.argwhere(confusion) if i != j]
    chosen = [pairs[k] for k in random.integers(len(pairs), size=12)]
    mistakes = [
        {
            "index": int(random.integers(confusion.sum())),
            "label": int(label),
            "predicted": int(predicted),
            "confidence": 0.999 - 0.01 * place,
            **{name: png(random) for name in ("png", "cam", "cam_label")},
        }
        for place, (label, predicted) in enumerate(chosen)
    ]
    counted = int(confusion.sum())
    return {"count": counted, "accuracy": accuracy, "confusion": confusion.tolist(), "mistakes": mistakes}


def flatness(steep: float, images: int, random: np.random.Generator) -> dict[str, Any]:
    centre = 0.004 / steep**0.3

    def curve(name: str, radii: Sequence[float], power: float, directions: int) -> dict[str, Any]:
        rises = [
            [2 * steep * r**power * math.exp(0.1 * random.standard_normal()) for r in radii] for _ in range(directions)
        ]
        losses = centre + np.array(rises)
        sd = losses.std(axis=0, ddof=1).tolist() if directions > 1 else None
        return {
            "direction": name,
            "radii": list(radii),
            "unit": 40.0,
            "centre": centre,
            "mean": losses.mean(axis=0).tolist(),
            "sd": sd,
            "losses": losses.tolist(),
            "count": images,
        }

    def sharpness(kind: str, ball: str, radii: Sequence[float], rise: float) -> list[dict[str, Any]]:
        found = []
        for radius in radii:
            increase = rise * steep * radius * math.exp(0.08 * random.standard_normal())
            ends = {"loss": centre, "worst": centre + increase, "increase": increase}
            found.append({"kind": kind, "ball": ball, "radius": radius, "steps": 1, "count": images, **ends})
            found[-1]["distance"] = 0.01 * steep if kind == "amp" else radius  # AMP's step is not normed
        return found

    largest = 60 * steep * math.exp(0.1 * random.standard_normal())
    return {
        "split": "train",
        "random": curve("random", (0.02, 0.05, 0.1, 0.2, 0.3, 0.5), 2, 5),
        "gradient": curve("gradient", (0.05, 0.1, 0.2, 0.5), 1.5, 1),
        "surface": surface(centre, steep, images),
        "amp": sharpness("amp", "tensor", (0.1, 0.5, 1.0), 0.2),
        "sam": sharpness("sam", "global", (0.05, 0.1), 1.5),
        "asam": sharpness("asam", "adaptive", (0.5, 2.0), 0.1),
        "eigenvalues": {
            "values": [largest, 0.6 * largest],
            "residuals": [0.01, 0.02],
            "smallest": -0.1,
            "smallest_residual": 0.01,
            "converged": True,
            "steps": 18,
            "dimension": 4_761_770,
            "precision": "fp32",
            "count": images // 4,
        },
        "trace": {
            "trace": 25 * largest,
            "standard_error": 30.0,
            "samples": [25 * largest] * 10,
            "probes": 10,
            "dimension": 4_761_770,
            "precision": "fp32",
            "count": images // 4,
        },
    }


def surface(centre: float, steep: float, images: int) -> dict[str, Any]:
    positions = np.linspace(-1, 1, 11)
    a, b = np.meshgrid(positions, positions, indexing="ij")
    losses = centre + 2.5 * (1 - np.exp(-2 * steep * (a**2 + 0.7 * b**2 + 0.4 * a * b + 0.3 * a**2 * b)))
    return {
        "positions": positions.tolist(),
        "unit": 40.0,
        "cosine": 0.01,
        "centre": centre,
        "losses": losses.tolist(),
        "count": images,
    }


def corruptions(accuracy: float, images: int, random: np.random.Generator) -> dict[str, Any]:
    table = {
        name: [
            accuracy - 0.02 * severity * (1 + place) / 2 - 0.004 * abs(random.standard_normal())
            for severity in range(1, 6)
        ]
        for place, name in enumerate(CORRUPTIONS)
    }
    generated = {
        "source": "generated",
        "seed": 0,
        "count": images,
        "clean": accuracy,
        "mean": float(np.mean(list(table.values()))),
        "severities": [1, 2, 3, 4, 5],
        "by_severity": np.mean(list(table.values()), axis=0).tolist(),
        "by_corruption": {name: float(np.mean(values)) for name, values in table.items()},
        "accuracy": table,
    }
    return {"generated": generated, "published": None}


def attacks(accuracy: float, images: int, random: np.random.Generator) -> dict[str, Any]:
    def attack(name: str, norm: str, budget: float, left: float, seconds: float) -> dict[str, Any]:
        return {
            "attack": name,
            "norm": norm,
            "budget": budget,
            "count": images // 2,
            "clean_accuracy": accuracy,
            "robust_accuracy": max(0.0, accuracy * left + 0.01 * random.standard_normal()),
            "precision": "fp32",
            "seed": 0,
            "seconds": seconds,
            "parts": [],
        }

    return {
        "attacks": [
            attack("fgsm", "linf", 1.0, 0.5, 2.0),
            attack("pgd", "linf", 1.0, 0.3, 20.0),
            attack("autoattack-quick", "linf", 1.0, 0.25, 160.0),
            attack("fgsm", "linf", 8.0, 0.15, 2.0),
            attack("pgd", "linf", 8.0, 0.0, 20.0),
            attack("pgd", "l2", 32.0, 0.4, 20.0),
        ],
        "checks": [
            {"name": "FGSM is weaker than PGD", "passed": True, "values": {"fgsm": 0.5, "pgd": 0.3}},
            {"name": "every image has a gradient", "passed": True, "values": {"without": 0.0}},
        ],
    }


def test_sets(accuracy: float, confusion: np.ndarray) -> dict[str, Any]:
    scores = {"loss": 0.6, "accuracy": accuracy - 0.08, "count": int(confusion.sum()), "confusion": confusion.tolist()}
    return {"sets": {"cifar10.1_v6": scores}}


test_sets.__test__ = False  # type: ignore[attr-defined]  # not one of pytest's
