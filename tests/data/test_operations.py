"""The operations of TrivialAugment and RandAugment beside Pillow's, to the bit."""

from __future__ import annotations

import pytest
import torch
from pillow_operations import by_pillow, make_images

from flatnext.data.operations import APPEARANCE, GEOMETRIC, affine, affine_map
from flatnext.data.policies import LEVELS, strength


def assert_same(found, images, name, values):
    for image, result, value in zip(images, found, values, strict=True):
        assert torch.equal(result, by_pillow(image, name, value)), (name, value)


@pytest.mark.parametrize("side", [32, 24, 8, 3, 2])
@pytest.mark.parametrize("name", APPEARANCE)
@pytest.mark.parametrize("policy", ["trivial", "randaugment"])
@pytest.mark.parametrize("channels", [1, 3])
def test_appearance_is_pillows(policy, name, side, channels):
    images = make_images(side)[:, :channels]
    for level in range(0, LEVELS, 3):
        value = strength(policy, name, level, 1, side, side)
        found = APPEARANCE[name](images, torch.full((len(images),), value))
        assert_same(found, images, name, [value] * len(images))


@pytest.mark.parametrize("side", [32, 24, 7, 2])
@pytest.mark.parametrize("name", GEOMETRIC)
@pytest.mark.parametrize("channels", [1, 3])
def test_geometry_is_pillows(name, side, channels):
    images = make_images(side, 2 * LEVELS)[:, :channels]
    values = [strength("trivial", name, level, sign, side, side) for level in range(LEVELS) for sign in (-1, 1)]
    maps = torch.tensor([affine_map(name, value, side, side) for value in values])
    assert_same(affine(images, maps), images, name, values)


@pytest.mark.parametrize("angle", [0, 90, -90, 180, 45, 1, 359])
def test_all_angles_are_pillows(angle):
    images = make_images(32, 8)
    maps = torch.tensor([affine_map("rotate", angle, 32, 32)] * 8)
    assert_same(affine(images, maps), images, "rotate", [angle] * 8)
