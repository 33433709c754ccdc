"""A data set in figures: its images and classes, their statistics, and whether its files are the published ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from flatnext.data.archive import md5
from flatnext.data.cifar import LAYOUTS, find
from flatnext.data.dataset import Dataset
from flatnext.data.normalization import channel_statistics
from flatnext.words import counted


def describe(dataset: Dataset, data_dir: Path) -> str:
    """Return lines with counts, image size, classes, pixel statistics and, for CIFAR, whether the files are genuine."""
    height, width = dataset.train.images.shape[2:]
    used, (mean, std) = dataset.normalization, channel_statistics(dataset.train.images)
    validation = "" if dataset.validation is None else f", {len(dataset.validation):,} validation"
    colours = "R, G, B" if len(mean) == 3 else "grey"
    lines = [
        f"{dataset.name}: {len(dataset.train):,} training{validation} and {counted(len(dataset.test), 'test image')} "
        f"of {height} x {width} pixels, {len(dataset.classes)} classes",
        "",
        *_class_table(dataset),
        "",
        f"{'pixels in [0, 1]':24}{f'mean ({colours})':26}std ({colours})",
        f"{'measured, training':24}{_figures(mean):26}{_figures(std)}",
        f"{'used to normalise':24}{_figures(used.mean):26}{_figures(used.std)}",
    ]
    if dataset.name in LAYOUTS:
        lines += ["", _provenance(dataset.name, Path(data_dir))]
    if dataset.notes:
        lines += ["", *dataset.notes]
    return "\n".join(lines)


def _class_table(dataset: Dataset) -> list[str]:
    first = max(len(name) for name in ("class", *dataset.classes)) + 2
    columns = {"training": dataset.train, "validation": dataset.validation, "test": dataset.test}
    splits = {title: split for title, split in columns.items() if split is not None}
    counts = [torch.bincount(split.labels.cpu(), minlength=len(dataset.classes)).tolist() for split in splits.values()]
    widths = [max(len(title) + 1, 9) for title in splits]

    def line(name: str, cells: Iterable[str]) -> str:
        return f"{name:{first}}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))

    rows = zip(dataset.classes, *counts, strict=True)
    return [line("class", splits), *(line(name, (f"{count:,}" for count in row)) for name, *row in rows)]


def _figures(values: Iterable[float]) -> str:
    return "  ".join(f"{value:.4f}" for value in values)


def _provenance(name: str, data_dir: Path) -> str:
    """Say whether the MD5 sums of the files of images are the published ones."""
    location = find(name, data_dir)
    if location is None:
        return f"files: no longer in {data_dir}"
    layout, folder = location
    other = [file for file, digest in layout.md5.items() if not _is_file_with(folder / file, digest)]
    if other:
        return f"files in {folder}: MD5 NOT as published: {', '.join(other)}"
    return f"files in {folder}: MD5 of all {len(layout.md5)} batches as published"


def _is_file_with(path: Path, digest: str) -> bool:
    return path.is_file() and md5(path) == digest
