"""Augmentation of a whole batch at once. All randomness comes in as tensors, so every function is pure."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def random_crop(images: Tensor, offsets: Tensor, padding: int) -> Tensor:
    """Pad with black on all sides, then crop a window of the old size from each image.

    `images` is B x C x H x W of any dtype. `offsets` (int64, B x 2) holds the window's top and left in the padded
    image, each from 0 to 2 * padding; (padding, padding) gives the image back.
    """
    height, width = images.shape[2:]
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images), device=images.device), :, offsets[:, 0], offsets[:, 1]]


def horizontal_flip(images: Tensor, mask: Tensor) -> Tensor:
    """Mirror left to right those images (B x C x H x W) where `mask` (bool, B) is true."""
    # Picking whole images from both versions is faster than choosing pixel by pixel.
    both = torch.stack([images, images.flip(3)])
    return both[mask.long(), torch.arange(len(images), device=images.device)]


def cutout(images: Tensor, centres: Tensor, size: int) -> Tensor:
    """Set a square of `size` pixels a side to zero in each image, which is the mean pixel once normalised.

    `images` is B x C x H x W of floats. `centres` (int64, B x 2) holds row and column; the square starts size // 2
    above and left of them and is clipped at the border, as in DeVries & Taylor 2017 (arXiv 1708.04552).
    """
    start = centres - size // 2
    rows = _within(images.shape[2], start[:, 0], size)
    columns = _within(images.shape[3], start[:, 1], size)
    keep = ~(rows[:, :, None] & columns[:, None, :])
    return images * keep[:, None].to(images.dtype)


def _within(length: int, start: Tensor, size: int) -> Tensor:
    """Return B x length booleans: true from each `start` on, `size` places far."""
    place = torch.arange(length, device=start.device)
    return (place >= start[:, None]) & (place < start[:, None] + size)
