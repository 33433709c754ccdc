"""A picture of a data set: samples of each class, as they are and as a model sees them in training."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flatnext import config
from flatnext.data.dataset import Dataset, Split
from flatnext.data.loader import NO_AUGMENTATION, Loader
from flatnext.files import write_atomically

SAMPLES = 6  # of a class
MOST_CLASSES = 20
SIDE = 0.62  # of an image, in inches
GAP = 0.3  # between the halves, in inches


def sample_grid(dataset: Dataset, settings: config.Data, path: Path, seed: int = 0) -> None:
    """Write a PNG: a row a class, training images on the left, the same ones augmented by `settings` on the right.

    Of the first 20 classes six images each are drawn, chosen and augmented by `seed`, at full size and unmixed.
    Raises `InputError`, and leaves no file, where `path` cannot be written.
    """
    chosen = _choose(dataset, seed)
    plain = _load(dataset, chosen, NO_AUGMENTATION, seed)
    augmented = _load(dataset, chosen, settings, seed)
    write_atomically(Path(path), _draw(dataset, [plain, augmented], ["as they are", _caption(settings)]))


def _choose(dataset: Dataset, seed: int) -> Split:
    order = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(seed))
    labels = dataset.train.labels.cpu()[order]
    shown = range(min(len(dataset.classes), MOST_CLASSES))
    return dataset.train.to("cpu").select(torch.cat([order[labels == label][:SAMPLES] for label in shown]))


def _load(dataset: Dataset, split: Split, settings: config.Data, seed: int) -> list[Tensor]:
    """Return for each class shown its images (uint8, n x H x W x 3) as the loader gives them.

    The order is the same for all `settings`, for the loader shuffles by its seed alone.
    """
    settings = replace(settings, early_sizes=None, mixup=0.0, cutmix=0.0)
    loader = Loader(split, settings, normalization=dataset.normalization, batch_size=len(split), seed=seed)
    images, labels = next(loader.epoch(0))
    pixels = dataset.normalization.inverse(images).permute(0, 2, 3, 1)
    return [pixels[labels == label] for label in range(min(len(dataset.classes), MOST_CLASSES))]


def _caption(settings: config.Data) -> str:
    parts: list[str] = [settings.augment] if settings.augment != "none" else []
    parts += [f"crop {settings.crop_padding}"] if settings.crop_padding else []
    parts += [f"{settings.flip} flip"] if settings.flip != "none" else []
    parts += [f"cutout {settings.cutout}"] if settings.cutout else []
    return "augmented: " + (", ".join(parts) or "not at all")


def _draw(dataset: Dataset, halves: list[list[Tensor]], captions: list[str]) -> bytes:
    """Return the PNG's bytes; a half holds the images of each class."""
    from matplotlib.figure import Figure  # half a second to import

    rows = len(halves[0])
    names = dataset.classes[:rows]
    left, top = 0.25 + 0.085 * max(len(name) for name in names), 0.75  # margins, in inches
    width, height = left + 2 * SAMPLES * SIDE + GAP + 0.2, top + rows * SIDE + 0.2
    figure = Figure(figsize=(width, height), dpi=160, facecolor="white")

    def write(x: float, y: float, words: str, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, words, parse_math=False, va="center", **style)

    share = f", {rows} of {len(dataset.classes)} classes" if rows < len(dataset.classes) else ""
    write(left, 0.24, f"{dataset.name}: {len(dataset.train):,} training images{share}", size=11, weight="bold")
    for row, name in enumerate(names):
        write(left - 0.12, top + (row + 0.5) * SIDE, name, size=9, ha="right")
    for half, (classes, caption) in enumerate(zip(halves, captions, strict=True)):
        start = left + half * (SAMPLES * SIDE + GAP)
        write(start, 0.56, caption, size=9, color="#555555")
        for row, images in enumerate(classes):
            y = 1 - (top + (row + 0.97) * SIDE) / height
            for column, image in enumerate(images):
                box = ((start + column * SIDE) / width, y, 0.94 * SIDE / width, 0.94 * SIDE / height)
                axes = figure.add_axes(box)
                axes.imshow(image.numpy(), interpolation="nearest")
                axes.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
