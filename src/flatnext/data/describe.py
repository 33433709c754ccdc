"""What a data set is, in figures: its images and classes, their statistics, and if its files are the published ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch

from flatnext.data.cifar import LAYOUTS, find
from flatnext.data.dataset import Dataset
from flatnext.data.normalization import channel_statistics


def describe(dataset: Dataset, data_dir: Path) -> str:
    """Return lines that tell counts, image size, classes, pixel statistics and, for CIFAR, if the files are genuine."""
    height, width = dataset.train.images.shape[2:]
    mean, std = channel_statistics(dataset.train.images)
    lines = [
        f"{dataset.name}: {len(dataset.train):,} training and {len(dataset.test):,} test images "
        f"of {height} x {width} pixels, {len(dataset.classes)} classes",
        "",
        *_class_table(dataset),
        "",
        f"{'pixels in [0, 1]':24}{'mean (R, G, B)':26}std (R, G, B)",
        f"{'measured, training':24}{_figures(mean):26}{_figures(std)}",
        f"{'used to normalise':24}{_figures(dataset.mean):26}{_figures(dataset.std)}",
    ]
    if dataset.name in LAYOUTS:
        lines += ["", _provenance(dataset.name, Path(data_dir))]
    return "\n".join(lines)


def _class_table(dataset: Dataset) -> list[str]:
    first = max(len(name) for name in ("class", *dataset.classes)) + 2
    counts = [
        torch.bincount(split.labels.cpu(), minlength=len(dataset.classes)).tolist()
        for split in (dataset.train, dataset.test)
    ]
    rows = zip(dataset.classes, *counts, strict=True)
    return [
        f"{'class':{first}}{'training':>9}{'test':>9}",
        *(f"{name:{first}}{train:>9,}{test:>9,}" for name, train, test in rows),
    ]


def _figures(values: Iterable[float]) -> str:
    return "  ".join(f"{value:.4f}" for value in values)


def _provenance(name: str, data_dir: Path) -> str:
    """Say whether the batches' MD5 sums are the published ones."""
    found = find(name, data_dir)
    if found is None:
        return f"files: no longer in {data_dir}"
    layout, folder = found
    other = [file for file, md5 in layout.md5.items() if _md5(folder / file) != md5]
    if other:
        return f"files in {folder}: MD5 NOT as published: {', '.join(other)}"
    return f"files in {folder}: MD5 of all {len(layout.md5)} batches as published"


def _md5(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError:
        return "missing"
