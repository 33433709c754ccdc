"""The settings of the images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flatnext.config.setting import Settings, require, setting

LARGEST = 2**31 - 1
"""What whole numbers are limited to where nothing else limits them: torch's 32-bit sizes and seeds."""

READING = ("dataset", "image_size", "resize", "channels", "skip_damaged")
"""The settings that say how images are read, before they are divided."""


@dataclass(frozen=True, kw_only=True)
class Data(Settings):
    """The images: which data set, how it is split, and how a training image is augmented."""

    dataset: Literal["cifar10", "cifar100", "digits", "folder"] = setting("cifar10", "data set")
    image_size: int | None = setting(
        None,
        "resize the images to N x N pixels (default: keep their size; folder: 32)",
        at_least=4,
        at_most=2**16,  # far above what fits into memory, and below where torch's sizes overflow
        multiple_of=4,
    )
    resize: Literal["crop", "pad", "stretch"] = setting(
        "crop",
        "how an image of a folder becomes a square: keep its middle, pad it with black, or stretch it",
    )
    channels: int | None = setting(
        None,
        "colours of the images: 3, or 1 for grey (default: 3, and 1 for a folder of files that all have one channel)",
    )
    skip_damaged: bool = setting(False, "leave out the files of a folder that cannot be read, instead of refusing it")
    early_sizes: tuple[int, ...] | None = setting(
        None,
        "train the first epochs on smaller images: their side in pixels, one number an epoch (default: full size)",
        at_least=1,
    )
    train_images: int | None = setting(
        None, "train on only N images, with every class in proportion (default: all)", at_least=1
    )
    validation: int | None = setting(
        None,
        "training images to hold out for validation, with every class in proportion; 0: none (default: a tenth)",
        at_least=0,
        at_most=LARGEST,
    )
    calibration: int = setting(
        0,
        "training images to hold out beside those, for nothing but the calibration of the model's answers (predict "
        "--coverage); 0: none",
        at_least=0,
        at_most=LARGEST,
    )
    split_seed: int = setting(
        0, "seed of the images that are held out; the same for all seeds of a study", at_least=0, at_most=LARGEST
    )
    sampler: Literal["shuffle", "balanced"] = setting(
        "shuffle", "shuffle: each image once an epoch; balanced: each class as often, its images again or some left out"
    )
    crop_padding: int = setting(
        4, "pad the image by N pixels and crop it at random; 0: no crop", at_least=0, at_most=LARGEST
    )
    flip: Literal["none", "random", "alternating"] = setting(
        "random", "horizontal flip: at random, or alternating: every image in every second epoch"
    )
    augment: Literal["none", "trivial", "randaugment"] = setting(
        "none", "policy applied before crop and flip: TrivialAugmentWide, or RandAugment (2 operations, magnitude 9)"
    )
    cutout: int = setting(0, "side in pixels of the square that cutout erases; 0: none", at_least=0, at_most=LARGEST)
    mixup: float = setting(0.0, "alpha of mixup; 0: none. With cutmix too, each batch gets one of them at random")
    cutmix: float = setting(0.0, "alpha of CutMix; 0: none")

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        require(self.channels in (None, 1, 3), f"channels is {self.channels}: give 1 or 3, or leave it out")
        for name in ("mixup", "cutmix"):
            alpha = getattr(self, name)
            require(alpha == 0 or 0.01 <= alpha <= 100, f"{name} is {alpha}: give 0, or a number from 0.01 to 100")


def most_of(size: int) -> dict[str, int]:
    """Return the largest `crop_padding` and `cutout` of images with `size` pixels a side."""
    return {"crop_padding": 2 * size, "cutout": size}
