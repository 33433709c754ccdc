"""Folders of tiny pictures, and a run on them that takes a fraction of a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("apple", "pear")


def paint(folder: Path, count: int, seed: int = 0, size: int = 8) -> Path:
    """Add `count` pictures of noise to each class folder; apples are darker."""
    noise = np.random.default_rng(seed)
    for place, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = noise.integers(100 * place, 100 * place + 155, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{seed}-{number}.png")
    return folder


def paint_data(folder: Path, count: int = 24) -> Path:
    """Paint `train` and `test` folders, which is a data set."""
    paint(folder / "train", count)
    paint(folder / "test", 6, seed=1)
    return folder


RUN = [
    *("train", "--recipe", "quick-amp", "--dataset", "folder", "--image-size", 8, "--epochs", 2, "--batch-size", 20),
    *("--validation", 8, "--blocks", "1,1", "--cardinality", 2, "--stem", 8, "--lr", 0.02, "--ema", 0.9),
    *("--precision", "fp32", "--calibration", 4),
]
"""Two epochs of two steps. Give it --data-dir and --output."""
