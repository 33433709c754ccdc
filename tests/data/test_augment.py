"""Augmentation beside a slow oracle that treats one image at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loaders import NORMALIZATION, augment_slowly, make_split

from flatnext.data.augment import cutout, horizontal_flip, random_crop


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_augmentation_equals_the_slow_oracle(data):
    height, width, padding, size = (data.draw(st.integers(*bounds)) for bounds in ((1, 6), (1, 6), (0, 4), (0, 5)))
    split = make_split(3, height, width)
    number = st.integers(0, 2 * padding)
    offsets = [(data.draw(number), data.draw(number)) for _ in range(3)]
    mirrored = [data.draw(st.booleans()) for _ in range(3)]
    centres = [(data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))) for _ in range(3)]
    layout = data.draw(st.sampled_from([torch.contiguous_format, torch.channels_last]))
    images = split.images.contiguous(memory_format=layout)
    images = horizontal_flip(random_crop(images, torch.tensor(offsets), padding), torch.tensor(mirrored))
    pixels = cutout(NORMALIZATION(images, torch.float64), torch.tensor(centres), size)
    for at in range(3):
        expected = augment_slowly(split.images[at].numpy(), padding, offsets[at], mirrored[at], centres[at], size)
        np.testing.assert_allclose(pixels[at].numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("function", [random_crop, horizontal_flip, cutout])
def test_augmentation_leaves_its_input_alone(function):
    images = make_split(2).images.float()
    before = images.clone()
    arguments = {
        random_crop: (torch.tensor([[0, 1], [2, 2]]), 1),
        horizontal_flip: (torch.tensor([True, False]),),
        cutout: (torch.tensor([[0, 1], [2, 2]]), 3),
    }[function]
    assert not torch.equal(function(images, *arguments), before)
    assert torch.equal(images, before)
