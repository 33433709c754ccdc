"""The fourteen operations of TrivialAugment and RandAugment on a batch of images, to the bit as Pillow does them.

An operation takes uint8 images (N x C x H x W, C 3 or 1) and a strength for each (N, float32) and returns uint8 images.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from flatnext.data.images import luma

FIXED = 1 << 16  # Pillow computes places in an image in 1/65536 of a pixel
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


def affine_map(name: str, value: float, height: int, width: int) -> tuple[int, ...]:
    """Return the map from the places of the new image to those of the old, as Pillow computes it.

    `value` is in degrees, a slope, or pixels. The six numbers a to f are in 1/65536 of a pixel: pixel (x, y) comes
    from (a x + b y + c, d x + e y + f).
    """
    a, b, c, d, e, f = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0
    if name == "rotate":
        angle = -math.radians(value % 360.0)
        a, b = round(math.cos(angle), 15), round(math.sin(angle), 15)
        d, e = round(-math.sin(angle), 15), round(math.cos(angle), 15)
        c, f = (-a * width - b * height + width) / 2, (-d * width - e * height + height) / 2
    b += value if name == "shear_x" else 0.0
    d += value if name == "shear_y" else 0.0
    c += value if name == "translate_x" else 0.0
    f += value if name == "translate_y" else 0.0
    middle_x, middle_y = c + a * 0.5 + b * 0.5, f + d * 0.5 + e * 0.5
    return tuple(math.floor(v * FIXED + 0.5) for v in (a, b, middle_x, d, e, middle_y))


def affine(images: Tensor, maps: Tensor) -> Tensor:
    """Return the images sampled where `maps` (int64, N x 6; see `affine_map`) says, black where that is outside."""
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device)[None, None, :]
    y = torch.arange(height, device=images.device)[None, :, None]
    a, b, c, d, e, f = (column[:, None, None] for column in maps.unbind(1))
    from_x, from_y = (c + a * x + b * y) >> 16, (f + d * x + e * y) >> 16
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    place = (from_y.clamp(0, height - 1) * width + from_x.clamp(0, width - 1)).flatten(1)
    pixels = images.flatten(2).gather(2, place[:, None].expand(-1, images.shape[1], -1)).view(images.shape)
    return pixels * inside[:, None]


def auto_contrast(images: Tensor, strengths: Tensor) -> Tensor:
    """Stretch each channel so that its darkest pixel is 0 and its brightest 255."""
    flat = images.flatten(2)
    low, high = flat.amin(2, keepdim=True), flat.amax(2, keepdim=True)
    exact = torch.float32 if images.device.type == "mps" else torch.float64  # Pillow's is double
    spread = (high.to(exact) - low).clamp_(min=1)
    scale = torch.full_like(spread, 255) / spread  # a number divided by a tensor is rounded twice
    stretched = (flat * scale + -low.to(exact) * scale).clamp_(0, 255).to(torch.uint8)
    return torch.where(high > low, stretched, flat).view(images.shape)


def equalize(images: Tensor, strengths: Tensor) -> Tensor:
    """Flatten the histogram of each channel."""
    flat = images.flatten(2).long()
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, flat, torch.ones_like(flat))
    brightest = counts.gather(2, flat.amax(2, keepdim=True))
    step = (flat.shape[2] - brightest) // 255
    table = ((step // 2 + counts.cumsum(2) - counts) // step.clamp(min=1)).clamp_(max=255)
    return torch.where(step > 0, table.gather(2, flat), flat).to(torch.uint8).view(images.shape)


def posterize(images: Tensor, strengths: Tensor) -> Tensor:
    """Keep the highest bits of each pixel, as many as the strength."""
    kept = 256 - 2 ** (8 - strengths)
    return images & kept.to(torch.uint8).view(-1, 1, 1, 1)


def solarize(images: Tensor, strengths: Tensor) -> Tensor:
    """Invert the pixels that are not below the strength."""
    return torch.where(images < strengths.view(-1, 1, 1, 1), images, 255 - images)


def color(images: Tensor, strengths: Tensor) -> Tensor:
    """Blend with the grey image: strength 0 is grey, 1 the image, 2 twice the colour. A grey image stays as it is."""
    return _blend(luma(images)[:, None], images, strengths)


def contrast(images: Tensor, strengths: Tensor) -> Tensor:
    """Blend with the mean grey of the image."""
    grey = luma(images)
    pixels = grey[0].numel()
    mean = (2 * grey.sum((1, 2)) + pixels) // (2 * pixels)
    return _blend(mean.view(-1, 1, 1, 1), images, strengths)


def brightness(images: Tensor, strengths: Tensor) -> Tensor:
    """Blend with black."""
    return _blend(torch.zeros_like(images[:, :1, :1, :1]), images, strengths)


def sharpness(images: Tensor, strengths: Tensor) -> Tensor:
    """Blend with the image smoothed by a 3 x 3 kernel, except its outermost pixels."""
    channels = images.shape[1]
    kernel = torch.ones(channels, 1, 3, 3, device=images.device)
    kernel[:, :, 1, 1] = 5
    smooth = images.float()
    if min(images.shape[2:]) >= 3:
        sums = F.conv2d(smooth, kernel, groups=channels)
        smooth[:, :, 1:-1, 1:-1] = (sums / 13 + 0.5).floor()
    return _blend(smooth, images, strengths)


def _blend(start: Tensor, images: Tensor, factors: Tensor) -> Tensor:
    """Return start + factor * (image - start), clipped to 0 and 255 and rounded down."""
    start = start.float()
    return (start + factors.view(-1, 1, 1, 1) * (images.float() - start)).clamp_(0, 255).to(torch.uint8)


APPEARANCE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    function.__name__: function
    for function in (auto_contrast, equalize, posterize, solarize, color, contrast, brightness, sharpness)
}
NAMES = (*GEOMETRIC, "identity", *APPEARANCE)
