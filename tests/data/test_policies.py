"""TrivialAugment and RandAugment: how the operations are drawn, and what they do to the images of a batch."""

from __future__ import annotations

import pytest
import torch
from pillow_operations import by_pillow, make_images

from flatnext.data.operations import GEOMETRIC, NAMES, affine
from flatnext.data.policies import Operations, draw_operations, strength


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
    assert sorted(set(rotated.abs().tolist())) == sorted({int(level * 135 / 30) for level in range(31)})
    shears = operations.maps[(operations.kinds == NAMES.index("shear_x"))][:, 1]
    assert abs(int((shears > 0).sum()) - int((shears < 0).sum())) < 5 * len(shears) ** 0.5
    assert shears.max() == -shears.min() + 0 * shears.min()


def by_torchvision(image, name, sign):
    """Return one image after an operation of torchvision's RandAugment(num_ops=2, magnitude=9) on Pillow images."""
    height, width = image.shape[1:]

    def magnitude(high):
        return sign * torch.linspace(0.0, high, 31)[9].item()

    values = {
        "rotate": magnitude(30.0),
        "shear_x": magnitude(0.3),
        "shear_y": magnitude(0.3),
        "translate_x": int(magnitude(150.0 / 331.0 * width)),
        "translate_y": int(magnitude(150.0 / 331.0 * height)),
        "posterize": 8 - round(9 / (30 / 4)),
        "solarize": torch.linspace(255.0, 0.0, 31)[9].item(),
        **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), 1.0 + magnitude(0.9)),
    }
    return by_pillow(image, name, values.get(name))


@pytest.mark.parametrize("side", [32, 24, 8])
def test_randaugment_is_torchvisions(side):
    images = make_images(side, 400)
    operations = draw_operations("randaugment", 400, side, side, torch.Generator().manual_seed(4))
    assert operations.kinds.shape == (400, 2)
    signs = set()
    for image, result, kinds in zip(images, operations(images), operations.kinds.tolist(), strict=True):
        first, second = (NAMES[kind] for kind in kinds)
        matching = {
            (before, after)
            for before in (-1, 1)
            for after in (-1, 1)
            if torch.equal(by_torchvision(by_torchvision(image, first, before), second, after), result)
        }
        assert matching, (first, second)
        if len(matching) == 1:
            signs |= matching
    assert len(signs) == 4


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
        ("randaugment", "brightness", (1, 1.45, 1.9)),
        ("randaugment", "translate_y", (0, 7, 14)),
    ],
)
def test_strengths_are_the_authors(policy, name, values):
    assert [strength(policy, name, level, 1, 32, 32) for level in (0, 15, 30)] == pytest.approx(values)


def test_no_operation_is_left_out():
    assert len(NAMES) == len(set(NAMES)) == 14
    still = Operations(
        torch.full((2, 1), NAMES.index("identity")), torch.zeros(2, 1), torch.zeros(2, 1, 6, dtype=torch.int64)
    )
    assert torch.equal(still(make_images(8, 2)), make_images(8, 2))
