"""The operations of TrivialAugment beside Pillow's, to the bit, and how they are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from flatnext.data.operations import (
    APPEARANCE,
    GEOMETRIC,
    LEVELS,
    NAMES,
    Operations,
    affine,
    affine_map,
    draw_operations,
    strength,
)

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
    """Return one image (uint8, 3 x H x W) after an operation, as TrivialAugment's authors call Pillow."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
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
        picture = ImageOps.solarize(picture, int(value))
    elif name != "identity":
        picture = {"auto_contrast": ImageOps.autocontrast, "equalize": ImageOps.equalize}[name](picture)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def assert_same(found, images, name, values):
    for image, result, value in zip(images, found, values, strict=True):
        assert torch.equal(result, by_pillow(image, name, value)), (name, value)


@pytest.mark.parametrize("side", [32, 24, 8, 3, 2])
@pytest.mark.parametrize("name", APPEARANCE)
@pytest.mark.parametrize("policy", ["trivial", "randaugment"])
def test_appearance_is_pillows(policy, name, side):
    images = make_images(side)
    for level in range(0, LEVELS, 3):
        value = strength(policy, name, level, side, side)
        found = APPEARANCE[name](images, torch.full((len(images),), value))
        assert_same(found, images, name, [value] * len(images))


@pytest.mark.parametrize("side", [32, 24, 7, 2])
@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometry_is_pillows(name, side):
    images = make_images(side, 2 * LEVELS)
    values = [sign * strength("trivial", name, level, side, side) for level in range(LEVELS) for sign in (-1, 1)]
    maps = torch.tensor([affine_map(name, value, side, side) for value in values])
    assert_same(affine(images, maps), images, name, values)


@pytest.mark.parametrize("angle", [0, 90, -90, 180, 45, 1, 359])
def test_all_angles_are_pillows(angle):
    images = make_images(32, 8)
    maps = torch.tensor([affine_map("rotate", angle, 32, 32)] * 8)
    assert_same(affine(images, maps), images, "rotate", [angle] * 8)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("policy", ["trivial", "randaugment"])
def test_each_image_of_a_batch_has_its_own_operations(policy, channels_last):
    images = make_images(32, 300)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    operations = draw_operations(policy, 300, 32, 32, torch.Generator().manual_seed(1))
    before = images.clone()
    found = operations(images.contiguous(memory_format=layout))
    assert torch.equal(images, before)
    assert found.is_contiguous(memory_format=layout)
    assert len(set(operations.kinds.flatten().tolist())) == 14
    for index, expected in enumerate(images):
        for turn, kind in enumerate(operations.kinds[index].tolist()):
            if NAMES[kind] in GEOMETRIC:
                expected = affine(expected[None], operations.maps[index, turn][None])[0]
            else:
                expected = by_pillow(expected, NAMES[kind], float(operations.strengths[index, turn]))
        assert torch.equal(found[index], expected)


def test_a_part_of_the_operations_is_for_a_part_of_the_images():
    images = make_images(16, 40)
    operations = draw_operations("trivial", 40, 16, 16, torch.Generator().manual_seed(2))
    whole = operations(images)
    assert torch.equal(operations[3:30:2](images[3:30:2]), whole[3:30:2])
    backwards = torch.arange(39, -1, -1)
    assert torch.equal(operations[backwards](images[backwards]), whole.flip(0))


def test_trivial_augment_draws_evenly():
    count = 31 * 14 * 100
    operations = draw_operations("trivial", count, 32, 32, torch.Generator().manual_seed(3))
    kinds = torch.bincount(operations.kinds.flatten(), minlength=14)
    assert (kinds - count / 14).abs().max() < 5 * (count / 14) ** 0.5
    rotated = operations.strengths[operations.kinds == NAMES.index("rotate")]
    assert sorted(set(rotated.tolist())) == sorted({int(level * 135 / 30) for level in range(31)})
    shears = operations.maps[(operations.kinds == NAMES.index("shear_x"))][:, 1]
    assert abs(int((shears > 0).sum()) - int((shears < 0).sum())) < 5 * len(shears) ** 0.5
    assert shears.max() == -shears.min() + 0 * shears.min()


def test_randaugment_draws_two_at_one_level():
    operations = draw_operations("randaugment", 5000, 32, 32, torch.Generator().manual_seed(4))
    assert operations.kinds.shape == (5000, 2)
    assert set(operations.strengths[operations.kinds == NAMES.index("rotate")].tolist()) == {9.0}
    assert set(operations.strengths[operations.kinds == NAMES.index("translate_x")].tolist()) == {3.0}


@pytest.mark.parametrize(
    ("policy", "name", "values"),
    [
        ("trivial", "rotate", (0, 67, 135)),
        ("trivial", "shear_x", (0, 0.495, 0.99)),
        ("trivial", "translate_x", (0, 16, 32)),
        ("trivial", "posterize", (8, 5, 2)),
        ("trivial", "solarize", (256, 128, 0)),
        ("trivial", "color", (0.01, 1.005, 2)),
        ("trivial", "identity", (0, 0, 0)),
        ("randaugment", "posterize", (8, 6, 4)),
        ("randaugment", "brightness", (0.1, 1, 1.9)),
        ("randaugment", "translate_y", (0, 5, 10)),
    ],
)
def test_strengths_are_the_authors(policy, name, values):
    assert [strength(policy, name, level, 32, 32) for level in (0, 15, 30)] == pytest.approx(values)


def test_no_operation_is_left_out():
    assert len(NAMES) == len(set(NAMES)) == 14
    still = Operations(
        torch.full((2, 1), NAMES.index("identity")), torch.zeros(2, 1), torch.zeros(2, 1, 6, dtype=torch.int64)
    )
    assert torch.equal(still(make_images(8, 2)), make_images(8, 2))
