"""A picture of a data set: samples of each class, as they are and as a model sees them in training."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flatnext import config
from flatnext.data.dataset import Dataset, Split
from flatnext.data.loader import NO_AUGMENTATION, Loader
from flatnext.files import write_output
from flatnext.words import counted

SAMPLES = 6
"""Images of a class."""
MOST_CLASSES = 20
DPI = 160
TILE, GAP, MARGIN = 99, 48, 32
"""Pixels of the picture: an image with its border, between the halves, and at the right and bottom edge."""
IMAGE = 93
"""Pixels of an image without its border."""
TOP = 120


def sample_grid(dataset: Dataset, settings: config.Data, path: Path, seed: int = 0) -> None:
    """Write a PNG: a row a class, training images on the left, the same ones augmented by `settings` on the right.

    Six images of each of the first 20 classes are drawn and augmented by `seed`, at full size and unmixed. Raises
    `InputError`, and leaves no file, where `path` cannot be written.
    """
    samples = _draw_samples(dataset, seed)
    settings = replace(settings, early_sizes=None, mixup=0.0, cutmix=0.0, sampler="shuffle")
    halves = [_by_class(dataset, samples, half, seed) for half in (NO_AUGMENTATION, settings)]
    write_output(Path(path), _plot(dataset, halves, ["as they are", _caption(settings)]))


def _classes(dataset: Dataset) -> range:
    return range(min(len(dataset.classes), MOST_CLASSES))


def _draw_samples(dataset: Dataset, seed: int) -> Split:
    order = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(seed))
    labels = dataset.train.labels.cpu()[order]
    drawn = torch.cat([order[labels == label][:SAMPLES] for label in _classes(dataset)])
    return dataset.train.to("cpu").select(drawn)


def _by_class(dataset: Dataset, samples: Split, settings: config.Data, seed: int) -> list[Tensor]:
    """Return the samples of each class (uint8, n x H x W x C) as the loader augments them.

    Their order is the same for all `settings`, as the loader shuffles by its seed alone.
    """
    loader = Loader(samples, settings, normalization=dataset.normalization, batch_size=len(samples), seed=seed)
    images, labels = next(loader.epoch(0))
    pixels = dataset.normalization.inverse(images).permute(0, 2, 3, 1)
    return [pixels[labels == label] for label in _classes(dataset)]


def _caption(settings: config.Data) -> str:
    augmentations = {
        settings.augment: settings.augment != "none",
        f"crop {settings.crop_padding}": settings.crop_padding,
        f"{settings.flip} flip": settings.flip != "none",
        f"cutout {settings.cutout}": settings.cutout,
    }
    return "augmented: " + (", ".join(name for name, used in augmentations.items() if used) or "not at all")


def _plot(dataset: Dataset, halves: list[list[Tensor]], captions: list[str]) -> bytes:
    """Return the PNG's bytes; a half holds the images of each class."""
    from matplotlib.figure import Figure  # half a second to import

    names = dataset.classes[: len(halves[0])]
    left = 40 + 14 * max(map(len, names))
    half_width, rows_height = SAMPLES * TILE, len(names) * TILE
    width, height = left + 2 * half_width + GAP + MARGIN, TOP + rows_height + MARGIN
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, text, parse_math=False, va="center", **style)

    part = f", {len(names)} of {len(dataset.classes)} classes" if len(names) < len(dataset.classes) else ""
    write(left, 38, f"{dataset.name}: {counted(len(dataset.train), 'training image')}{part}", size=11, weight="bold")
    for row, name in enumerate(names):
        write(left - 19, TOP + (row + 0.5) * TILE, name, size=9, ha="right")
    for half, (images, caption) in enumerate(zip(halves, captions, strict=True)):
        start = left + half * (half_width + GAP)
        write(start, 90, caption, size=9, color="#555555")
        figure.figimage(_mosaic(images), start, MARGIN)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _mosaic(rows: list[Tensor]) -> np.ndarray:
    """Return one white image with a row a class (uint8, height x width x 3)."""
    canvas = np.full((len(rows) * TILE, SAMPLES * TILE, 3), 255, np.uint8)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            tile = Image.fromarray(image.expand(-1, -1, 3).contiguous().numpy()).resize(
                (IMAGE, IMAGE), Image.Resampling.NEAREST
            )
            top, left = row * TILE + (TILE - IMAGE) // 2, column * TILE
            canvas[top : top + IMAGE, left : left + IMAGE] = np.asarray(tile)
    return canvas
