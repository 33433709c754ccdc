"""The operations of TrivialAugment by Pillow, an image at a time."""

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

ENHANCERS = {
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "brightness": ImageEnhance.Brightness,
    "sharpness": ImageEnhance.Sharpness,
}


def make_images(side, count=24):
    """Return noise, smooth pictures, and pictures of few colours and one."""
    draw = np.random.default_rng(side)
    noise = draw.integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    slope = np.add.outer(np.arange(side) * 5, np.arange(side) * 2)[None, None] + draw.integers(0, 60, (count, 3, 1, 1))
    noise[1::4] = (slope % 256)[1::4]
    noise[2::4] //= 120
    noise[3::8] = 77
    noise[4::8, :, :2] = 250
    return torch.from_numpy(noise)


def by_pillow(image, name, value):
    """Return one image (uint8, C x H x W) after an operation, as TrivialAugment's authors call Pillow."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy() if len(image) == 3 else image[0].numpy())
    maps = {
        "shear_x": (1, value, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, value, 1, 0),
        "translate_x": (1, 0, value, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, value),
    }
    if name in maps:
        picture = picture.transform(picture.size, Image.Transform.AFFINE, maps[name])
    elif name == "rotate":
        picture = picture.rotate(value)
    elif name in ENHANCERS:
        picture = ENHANCERS[name](picture).enhance(value)
    elif name == "posterize":
        picture = ImageOps.posterize(picture, int(value))
    elif name == "solarize":
        picture = ImageOps.solarize(picture, value)
    elif name != "identity":
        picture = {"auto_contrast": ImageOps.autocontrast, "equalize": ImageOps.equalize}[name](picture)
    return torch.from_numpy(np.array(picture).reshape(*image.shape[1:], -1)).permute(2, 0, 1)
