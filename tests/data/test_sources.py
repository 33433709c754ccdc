"""The digits, the resizing of a data set, and names that are not of one."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flatnext.data import Split, load
from flatnext.errors import InputError


def test_digits_are_scikit_learns(tmp_path):
    from sklearn.datasets import load_digits

    dataset = load("digits", tmp_path / "nowhere")
    assert (len(dataset.train), len(dataset.test)) == (1437, 360)
    assert dataset.classes == tuple("0123456789")
    assert dataset.train.images.shape[1:] == (3, 8, 8)
    assert not (tmp_path / "nowhere").exists()
    source = load_digits()
    expected = sorted(
        (label, *(int(v * 255 / 16 + 0.5) for v in grey))
        for grey, label in zip(source.data, source.target, strict=True)
    )
    together = Split(
        torch.cat([dataset.train.images, dataset.test.images]), torch.cat([dataset.train.labels, dataset.test.labels])
    )
    for channel in range(3):
        flat = together.images[:, channel].flatten(1).tolist()
        assert sorted((label, *grey) for grey, label in zip(flat, together.labels.tolist(), strict=True)) == expected
    shares = torch.bincount(dataset.test.labels) / torch.bincount(together.labels)
    assert (shares - 360 / 1797).abs().max() < 1 / 170  # less than one image of the smallest class, of 174
    assert torch.equal(load("digits", tmp_path).test.images, dataset.test.images)


@pytest.mark.parametrize("found", [None, SimpleNamespace(submodule_search_locations=["nowhere"])])
def test_digits_without_scikit_learn_are_an_error(tmp_path, monkeypatch, found):
    monkeypatch.setattr("flatnext.data.digits.find_spec", lambda name: found)
    with pytest.raises(InputError, match="pip install scikit-learn"):
        load("digits", tmp_path)


@pytest.mark.parametrize("size", [4, 16])
def test_image_size_resizes(tmp_path, size):
    dataset, original = load("digits", tmp_path, image_size=size), load("digits", tmp_path)
    assert dataset.train.images.shape == (1437, 3, size, size)
    assert dataset.test.images.shape == (360, 3, size, size)
    assert torch.equal(dataset.train.labels, original.train.labels)
    levels = (original.train.images.double().mean(), dataset.train.images.double().mean())
    assert abs(levels[0] - levels[1]) < 12


def test_resizing_is_pillows(tmp_path):
    from PIL import Image

    dataset, original = load("digits", tmp_path, image_size=4), load("digits", tmp_path)
    shrunk = [
        np.array(Image.fromarray(image[0].numpy()).resize((4, 4), Image.Resampling.BILINEAR), dtype=int)
        for image in original.test.images
    ]
    difference = dataset.test.images[:, 0].numpy() - np.stack(shrunk)
    assert abs(difference).max() <= 1
    assert abs(difference.mean()) < 0.25  # rounded, not cut off; Pillow rounds halves up, after each of two passes


@pytest.mark.parametrize(("arguments", "word"), [(("mnist",), "mnist.*cifar10"), (("digits", 0), "image_size")])
def test_unknown_names_and_sizes_are_refused(tmp_path, arguments, word):
    with pytest.raises(InputError, match=word):
        load(arguments[0], tmp_path, image_size=arguments[1] if len(arguments) > 1 else None)
