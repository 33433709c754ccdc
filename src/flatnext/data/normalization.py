"""The mean and standard deviation by which images are normalised."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from flatnext.errors import InputError


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of pixels in [0, 1], a value a channel. Raises `InputError` for a `std` of 0."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the values."""
        if len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise InputError(f"mean is {self.mean} and std {self.std}: give a positive std for each mean")

    @classmethod
    def of(cls, images: Tensor) -> Normalization:
        """Return that of all pixels of uint8 images (N x C x H x W); the std of a constant channel is set to 1."""
        mean, std = channel_statistics(images)
        return cls(mean, tuple(value or 1.0 for value in std))

    def __call__(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return (images / 255 - mean) / std of uint8 images (B x C x H x W) as `dtype`, in their memory layout.

        The arithmetic is in double precision where `dtype` is, else in single; half precision is rounded to at the end.
        `InputError`: images of another kind, such as floats, or of other channels.
        """
        channels = len(self.mean)
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != channels:
            form = f"{images.dtype} {tuple(images.shape)}"
            raise InputError(f"images are {form}: give torch.uint8 from 0 to 255, N x {channels} x H x W")
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        pixels = images.to(exact)
        # Expanded to a whole image first, the arithmetic runs over long rows in either layout: 4 times as fast.
        shift, scale = (
            torch.empty_like(pixels[:1]).copy_(values.to(exact).view(-1, 1, 1))
            for values in self.tensors(images.device)
        )
        return pixels.sub_(shift.mul_(255)).div_(scale.mul_(255)).to(dtype)

    def inverse(self, pixels: Tensor) -> Tensor:
        """Return normalised images (B x C x H x W) as uint8, rounded and clipped to 0 to 255."""
        mean, std = (values.float().view(-1, 1, 1) for values in self.tensors(pixels.device))
        return ((pixels * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

    def for_channels(self, channels: int) -> Normalization:
        """Return that of images with another number of channels: the means over the channels, or the one for each."""
        if len(self.mean) == channels:
            return self
        mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
        return Normalization((mean,) * channels, (std,) * channels)

    def tensors(self, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Return mean and std in double precision (C each) on a device. Do not change them: calls share them.

        On Apple's GPUs, which have no doubles, they are in single precision.
        """
        return _tensors(self, torch.device(device))


@functools.lru_cache(maxsize=64)
def _tensors(normalization: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    """Copy the values to a device once: each copy to a GPU would wait for all its work."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    with torch.inference_mode(False):  # so that autograd can use them later
        both = torch.tensor([normalization.mean, normalization.std], dtype=dtype, device=device)
        return both[0], both[1]


CIFAR10 = Normalization((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
"""The constants of the baseline paper and of much of CIFAR-10's literature.

The std is the mean over images of an image's own std, less than that of all pixels (0.247, 0.243, 0.262).
"""


CHUNK = 5_000_000
"""Pixels that are counted at a time."""


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation over all pixels of uint8 images (N x C x H x W), a channel each, in [0, 1].

    They come from the counts of the 256 values, so that rounding does not grow with the number of images.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(images.shape[1]):
        parts = images[:, channel].cpu().split(max(1, CHUNK // (images.shape[2] * images.shape[3])))
        counts = sum(torch.bincount(part.flatten(), minlength=256) for part in parts)
        share = counts / (images[:, channel].numel())
        mean = (share * values).sum()
        means.append(mean.item())
        stds.append((share * (values - mean) ** 2).sum().sqrt().item())
    return tuple(means), tuple(stds)
