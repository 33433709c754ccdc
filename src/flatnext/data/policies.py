"""TrivialAugment and RandAugment: which operation is done to each image, and how strongly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flatnext.data.operations import APPEARANCE, GEOMETRIC, NAMES, affine, affine_map

LEVELS = 31
"""Levels of strength, from 0 to 30."""
RANDAUGMENT_LEVEL = 9
ROUNDS = {"trivial": 1, "randaugment": 2}
"""Operations an image."""


@dataclass(frozen=True)
class Range:
    """Strengths of an operation at the lowest and the highest level."""

    low: float
    high: float
    whole: bool = False
    """Round the change from `low` towards zero."""
    about: float | None = None
    """Add the strength to this number or subtract it from it, by a fair coin."""


COLORS = ("color", "contrast", "brightness", "sharpness")
# Translations are shares of the image's side. An operation that is not here has no strength.
RANGES: dict[str, dict[str, Range]] = {
    "trivial": {
        "rotate": Range(0, 135, whole=True, about=0),
        "shear_x": Range(0, 0.99, about=0),
        "shear_y": Range(0, 0.99, about=0),
        "translate_x": Range(0, 1, whole=True, about=0),
        "translate_y": Range(0, 1, whole=True, about=0),
        "posterize": Range(8, 2, whole=True),
        "solarize": Range(256, 0, whole=True),
        **dict.fromkeys(COLORS, Range(0.01, 2.0)),
    },
    "randaugment": {
        "rotate": Range(0, 30, about=0),
        "shear_x": Range(0, 0.3, about=0),
        "shear_y": Range(0, 0.3, about=0),
        "translate_x": Range(0, 150 / 331, whole=True, about=0),
        "translate_y": Range(0, 150 / 331, whole=True, about=0),
        "posterize": Range(8, 4, whole=True),
        "solarize": Range(255, 0),
        **dict.fromkeys(COLORS, Range(0, 0.9, about=1)),
    },
}


@dataclass(frozen=True)
class Operations:
    """What is done to each of N images: which operation, how strongly, and from where its pixels come.

    `kinds` (int64, N x rounds, on the CPU) are indices into `NAMES`; `strengths` is float32, N x rounds; `maps` (int64,
    N x rounds x 6) are the affine maps of the geometric operations (see `affine_map`).
    """

    kinds: Tensor
    strengths: Tensor
    maps: Tensor

    def to(self, device: torch.device) -> Operations:
        """Return these with all that images need on their device."""
        return Operations(self.kinds, self.strengths.to(device), self.maps.to(device))

    def __getitem__(self, places: slice | Tensor) -> Operations:
        """Return those of some of the images; `places` is a slice, or indices on the CPU."""
        there = places.to(self.maps.device) if isinstance(places, Tensor) else places
        return Operations(self.kinds[places], self.strengths[there], self.maps[there])

    def __call__(self, images: Tensor) -> Tensor:
        """Return the images (uint8, N x C x H x W) with the operations done, in the memory layout they have."""
        for turn in range(self.kinds.shape[1]):
            images = _operate(images, self.kinds[:, turn], self.strengths[:, turn], self.maps[:, turn])
        return images


def _operate(images: Tensor, kinds: Tensor, strengths: Tensor, maps: Tensor) -> Tensor:
    """Do one operation to each image: sorted by kind, so that all images of a kind are worked on at once."""
    order = kinds.argsort(stable=True)
    counts = torch.bincount(kinds, minlength=len(NAMES)).tolist()
    geometric = sum(counts[: len(GEOMETRIC)])
    groups = zip([geometric, *counts[len(GEOMETRIC) :]], ["affine", *NAMES[len(GEOMETRIC) :]], strict=True)
    order = order.to(images.device, non_blocking=True)  # else the host would wait for all that the GPU has to do
    ordered, strengths, maps = images[order], strengths[order], maps[order]
    result = torch.empty_like(images)
    first = 0
    for count, name in groups:
        part = slice(first, first + count)
        if count and name == "affine":
            ordered[part] = affine(ordered[part], maps[part])
        elif count and name != "identity":
            ordered[part] = APPEARANCE[name](ordered[part], strengths[part])
        first += count
    result[order] = ordered
    return result


def draw_operations(policy: str, count: int, height: int, width: int, generator: torch.Generator) -> Operations:
    """Draw the operations for `count` images of height x width pixels.

    - `trivial`: TrivialAugmentWide (arXiv 2103.10158): one operation at one of 31 levels, both uniform. The ranges are
      those of the authors' code (automl/trivialaugment), with translations in proportion to images of 32 pixels.
    - `randaugment`: RandAugment (arXiv 1909.13719) as torchvision has it by default: two operations, drawn with
      replacement, at magnitude 9 of 30.
    """
    shape = (count, ROUNDS[policy])
    kinds = torch.randint(len(NAMES), shape, generator=generator)
    levels = torch.randint(LEVELS, shape, generator=generator)
    positive = torch.randint(2, shape, generator=generator)
    if policy == "randaugment":
        levels = torch.full(shape, RANDAUGMENT_LEVEL)
    strengths, maps = _tables(policy, height, width)
    return Operations(kinds, strengths[kinds, levels, positive], maps[kinds, levels, positive])


def _tables(policy: str, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return strengths and maps of every operation, level and sign (minus, plus)."""
    strengths = torch.zeros(len(NAMES), LEVELS, 2, dtype=torch.float32)
    maps = torch.zeros(len(NAMES), LEVELS, 2, 6, dtype=torch.int64)
    for kind, name in enumerate(NAMES):
        for level in range(LEVELS):
            for index, sign in enumerate((-1, 1)):
                value = strength(policy, name, level, sign, height, width)
                strengths[kind, level, index] = value
                if name in GEOMETRIC:
                    maps[kind, level, index] = torch.tensor(affine_map(name, value, height, width))
    return strengths, maps


def strength(policy: str, name: str, level: int, sign: int, height: int, width: int) -> float:
    """Return the strength of an operation at a level: degrees, a slope, pixels, bits, a threshold, or a factor.

    `sign` is -1 or 1, and without effect on an operation that has a strength of one sign only.
    """
    if name not in RANGES[policy]:
        return 0.0
    span = RANGES[policy][name]
    side = {"translate_x": width, "translate_y": height}.get(name, 1)
    reach = abs(span.high - span.low) * side
    change = level * reach / (LEVELS - 1)
    if policy == "randaugment":  # torchvision's are in single precision
        change = torch.linspace(0, reach, LEVELS)[level].item()
    value = math.copysign(int(change) if span.whole else change, span.high - span.low) + span.low
    return value if span.about is None else span.about + sign * value
