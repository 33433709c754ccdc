"""The constants by which images are normalised."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flatnext.data.augment import normalize


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of pixels in [0, 1], a value a channel. Raises `ValueError` for a `std` of 0."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the values."""
        if len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise ValueError(f"mean is {self.mean} and std {self.std}: give a positive std for each mean")

    def __call__(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return uint8 images (B x C x H x W) normalised, as `dtype`, in their memory layout; see `normalize`."""
        return normalize(images, *self.tensors(images.device), dtype)

    def tensors(self, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Return mean and std in double precision on a device."""
        both = torch.tensor([self.mean, self.std], dtype=torch.float64, device=device)
        return both[0], both[1]
