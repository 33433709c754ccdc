"""Resizing beside Pillow's."""

import numpy as np
import pytest
import torch
from loaders import make_split
from PIL import Image

from flatnext.data.images import resize_images


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [4, 16, 20, 24, 32])
def test_shrinking_is_pillows(size, channels_last):
    images = make_split(5, 32, 32).images
    layout = torch.channels_last if channels_last else torch.contiguous_format
    small = resize_images(images.contiguous(memory_format=layout), size, chunk=2)
    assert small.is_contiguous(memory_format=layout)
    for image, found in zip(images, small, strict=True):
        expected = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.BILINEAR)
        # Pillow rounds after the rows and again after the columns.
        difference = found.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected)
        assert np.abs(difference).max() <= 1
