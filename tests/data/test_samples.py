"""The picture of samples: both halves, every augmentation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from loaders import make_dataset
from PIL import Image

from flatnext import config
from flatnext.data import Split, sample_grid
from flatnext.errors import InputError

PLAIN = config.Data(crop_padding=0, flip="none")


def read(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def test_picture_shows_both_halves(tmp_path):
    dataset = make_dataset()
    path = tmp_path / "grid.png"
    sample_grid(dataset, PLAIN, path)
    plain = read(path)
    sample_grid(dataset, config.Data(crop_padding=2, cutout=3), path)
    augmented = read(path)
    assert plain.shape == augmented.shape
    changed = np.argwhere((plain != augmented).any(axis=2))
    middle = plain.shape[1] // 2
    below_captions = changed[changed[:, 0] > 130]  # pixels from the top; captions differ too
    assert len(below_captions) > 1000
    assert below_captions[:, 1].min() > middle  # the left half is the same
    sample_grid(dataset, config.Data(crop_padding=2, cutout=3), path)
    assert np.array_equal(read(path), augmented)
    sample_grid(dataset, config.Data(crop_padding=2, cutout=3), path, seed=1)
    assert not np.array_equal(read(path), augmented)
    assert [child.name for child in tmp_path.iterdir()] == ["grid.png"]


def test_picture_shows_the_images_themselves(tmp_path):
    """Without augmentation both halves show the images' own colours, and no others."""
    colours = torch.tensor([[250, 20, 30], [10, 200, 40], [60, 70, 240]], dtype=torch.uint8)
    images = colours[torch.arange(18) % 3][:, :, None, None].expand(18, 3, 8, 8).contiguous()
    dataset = make_dataset(count=18)
    dataset = replace(dataset, train=Split(images, torch.arange(18) % 3))
    sample_grid(dataset, PLAIN, tmp_path / "grid.png")
    pixels = read(tmp_path / "grid.png")
    middle = pixels.shape[1] // 2
    for colour in colours.numpy().astype(int):
        shown = (pixels == colour).all(axis=2)
        assert shown[:, :middle].sum() > 20_000  # six squares of about 93 pixels a side, less than half their area
        assert shown[:, middle:].sum() > 20_000


@pytest.mark.parametrize(
    "change", [{"crop_padding": 2}, {"flip": "random"}, {"flip": "alternating"}, {"cutout": 3}, {"augment": "trivial"}]
)
def test_picture_shows_each_augmentation(tmp_path, change):
    dataset = make_dataset(count=6)
    sample_grid(dataset, PLAIN, tmp_path / "plain.png")
    sample_grid(dataset, replace(PLAIN, **change), tmp_path / "augmented.png")
    plain, augmented = read(tmp_path / "plain.png"), read(tmp_path / "augmented.png")
    assert (plain != augmented)[130:].any(axis=2).sum() > 1000


def test_picture_of_many_classes_stops_at_twenty(tmp_path):
    sample_grid(make_dataset(25, 50), PLAIN, tmp_path / "many.png")
    sample_grid(make_dataset(20, 40), PLAIN, tmp_path / "twenty.png")
    assert read(tmp_path / "many.png").shape[0] == read(tmp_path / "twenty.png").shape[0]


def test_picture_where_it_cannot_be_written(tmp_path):
    (tmp_path / "none").touch()
    path = tmp_path / "none" / "grid.png"
    with pytest.raises(InputError, match=r"cannot make .*none"):
        sample_grid(make_dataset(), PLAIN, path)
    assert [path.name for path in tmp_path.iterdir()] == ["none"]
