"""The corruptions by name, with the parameters of their five severities.

Names and parameters are those with which CIFAR-10-C was made: `ImageNet-C/create_c/make_cifar_c.py` of
hendrycks/robustness. They are for pictures of 32 x 32 pixels; radii stay what they are, in pixels, in others.

What differs from the published files: the random numbers; `frost` has drawn textures instead of photographs, so that
its figures cannot be compared; `elastic_transform` interpolates at the exact place, not at 1/32 of a pixel; motion blur
(also of snow) is worked out in floating point as ImageMagick does it in 16 bits; JPEG is that of the Pillow at hand.
Random numbers and resampling are those of the NumPy, SciPy and Pillow at hand: other versions may give other pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flatnext.errors import InputError
from flatnext.evaluation.corruptions import blur, digital, noise, weather
from flatnext.evaluation.corruptions.draws import Array, draws

Corruption = tuple[Callable[..., Array], tuple[tuple[Any, ...], ...]]

TABLE: dict[str, Corruption] = {
    "gaussian_noise": (noise.gaussian_noise, ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,))),
    "shot_noise": (noise.shot_noise, ((500,), (250,), (100,), (75,), (50,))),
    "impulse_noise": (noise.impulse_noise, ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,))),
    "defocus_blur": (blur.defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "glass_blur": (blur.glass_blur, ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))),
    "motion_blur": (blur.motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    "zoom_blur": (blur.zoom_blur, ((7,), (12,), (16,), (21,), (26,))),
    "snow": (
        weather.snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "frost": (weather.frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    "fog": (weather.fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": (weather.brightness, ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,))),
    "contrast": (digital.contrast, ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,))),
    "elastic_transform": (
        digital.elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": (digital.pixelate, ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,))),
    "jpeg_compression": (digital.jpeg_compression, ((80,), (65,), (58,), (50,), (40,))),
}
NAMES = tuple(TABLE)
SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST = 8  # pixels a side
AT_ONCE = 250  # images: what a processor's cache holds


def corrupt(images: Tensor, name: str, severity: int, seed: int = 0, *, first: int = 0) -> Tensor:
    """Return the images (uint8, N x C x H x W, C 3 or 1) corrupted, as many, of the same shape, on the same device.

    The outcome for an image depends on it, on (name, severity, seed) and on its number alone: parts of a set come out
    as the whole does. Values are cut off to whole levels, as in CIFAR-10-C. It is worked out by NumPy on the CPU.

    Args:
        images: at least 8 pixels a side.
        name: one of `NAMES`.
        severity: 1 to 5.
        seed: 0 or more.
        first: the number of the first image, where `images` is a part of a set.

    Raises:
        InputError: one of these is something else.
    """
    check_images(images)
    check_name(name)
    check_severity(severity)
    if seed < 0 or first < 0:
        raise InputError(f"seed is {seed} and first {first}: give 0 or more")
    function, parameters = TABLE[name]
    made = []
    for start in range(0, len(images), AT_ONCE):
        part = images[start : start + AT_ONCE].cpu().permute(0, 2, 3, 1).contiguous().numpy().astype(np.float32)
        generators = draws(seed, name, severity, first + start, len(part))
        levels = function(part, generators, *parameters[severity - 1])
        made.append(np.clip(levels + blur.ROUNDING, 0, 255).astype(np.uint8))
    pixels = np.concatenate(made).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(images.device)


def check_images(images: Tensor) -> None:
    """Raise `InputError` for images that are not uint8, N x C x H x W, C 3 or 1, N at least 1, H and W at least 8."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        form = f"{images.dtype} {tuple(images.shape)}"
        raise InputError(f"images are {form}: give torch.uint8, N x 3 x H x W or N x 1 x H x W, N >= 1")
    if min(images.shape[2:]) < SMALLEST:
        raise InputError(f"images are {tuple(images.shape)}: give at least {SMALLEST} pixels a side")


def check_name(name: str) -> None:
    """Raise `InputError` for the name of no corruption."""
    if name not in TABLE:
        raise InputError(f"corruption is {name!r}: choose one of {', '.join(NAMES)}")


def check_severity(severity: int) -> None:
    """Raise `InputError` for a severity other than 1 to 5."""
    if severity not in SEVERITIES:
        raise InputError(f"severity is {severity!r}: choose 1 to 5")
