"""Normalisation beside NumPy, in every type and layout, and statistics of pixels."""

import numpy as np
import pytest
import torch
from loaders import MEAN, NORMALIZATION, STD, make_split

from flatnext.data import Normalization
from flatnext.data.normalization import channel_statistics
from flatnext.errors import InputError


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 2**-8)]
)
def test_images_are_normalised_as_by_numpy(dtype, tolerance, layout):
    images = make_split().images.contiguous(memory_format=layout)
    expected = (images.double().numpy() / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    pixels = NORMALIZATION(images, dtype)
    assert pixels.dtype == dtype
    assert pixels.is_contiguous(memory_format=layout)
    torch.testing.assert_close(pixels.double(), torch.from_numpy(expected), rtol=tolerance, atol=tolerance)


def test_the_inverse_gives_the_images_back():
    images = make_split().images
    assert torch.equal(NORMALIZATION.inverse(NORMALIZATION(images)), images)


def test_constants_made_in_inference_mode_serve_autograd():
    normalization = Normalization((0.1, 0.2), (0.3, 0.4))
    with torch.inference_mode():
        normalization.tensors("cpu")
    mean, _ = normalization.tensors("cpu")
    weight = torch.ones(2, dtype=torch.float64, requires_grad=True)
    (weight * mean).sum().backward()
    assert weight.grad.tolist() == [0.1, 0.2]


@pytest.mark.parametrize(("mean", "std"), [((0.5,) * 3, (1.0, 0.0, 1.0)), ((0.5,), (0.1, 0.2))])
def test_bad_constants_are_refused(mean, std):
    with pytest.raises(InputError, match="positive std"):
        Normalization(mean, std)


def test_statistics_are_those_of_all_pixels():
    images = torch.randint(0, 256, (7, 3, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = channel_statistics(images)
    pixels = images.double() / 255
    torch.testing.assert_close(torch.tensor(mean), pixels.mean((0, 2, 3)).float())
    torch.testing.assert_close(torch.tensor(std), pixels.std((0, 2, 3), correction=0).float())
