"""A folder of images: read upright, square and in order, and every fault named."""

from dataclasses import astuple

import numpy as np
import pytest
import torch
from PIL import Image

from flatnext.data import load
from flatnext.data.normalization import channel_statistics
from flatnext.errors import InputError

RED, BLUE = (255, 0, 0), (0, 0, 255)


def paint(path, colour=RED, size=(32, 32), **options):
    """Write an image of one colour, (width, height) pixels large."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


def paint_classes(folder, count=5):
    for number in range(count):
        paint(folder / "blue" / f"{number}.png", BLUE)
        paint(folder / "red" / f"{number}.png", RED)


def refused(folder, *words, **options):
    with pytest.raises(InputError) as caught:
        load("folder", folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_train_and_test_folders(tmp_path, held_out):
    paint_classes(tmp_path / "train", 3)
    paint(tmp_path / held_out / "red" / "one.png", RED)
    dataset = load("folder", tmp_path)
    assert dataset.classes == ("blue", "red")
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test.labels.tolist() == [1]
    assert dataset.train.images.shape == (6, 3, 32, 32)
    for split in (dataset.train, dataset.test):
        expected = torch.tensor([BLUE, RED], dtype=torch.uint8)[split.labels][:, :, None, None]
        assert torch.equal(split.images, expected.expand(split.images.shape))
    assert (dataset.normalization.mean[0], dataset.normalization.mean[2]) == (0.5, 0.5)
    assert dataset.normalization.std == (0.5, 1.0, 0.5)  # green never changes


def test_a_test_folder_goes_before_val(tmp_path):
    paint_classes(tmp_path / "train", 1)
    paint(tmp_path / "test" / "red" / "one.png")
    paint(tmp_path / "val" / "unknown" / "one.png")
    assert len(load("folder", tmp_path).test) == 1


def test_classes_alone_are_divided_the_same_way_each_time(tmp_path):
    random = np.random.default_rng(0)
    for name, count in (("a", 10), ("b", 20), ("c", 5)):
        for number in range(count):
            paint(tmp_path / name / f"{number}.png", tuple(random.integers(0, 256, 3).tolist()))
    first, again = load("folder", tmp_path), load("folder", tmp_path)
    assert torch.bincount(first.test.labels).tolist() == [2, 4, 1]
    assert torch.bincount(first.train.labels).tolist() == [8, 16, 4]
    assert torch.equal(first.test.images, again.test.images)
    colours = torch.cat([first.train.images, first.test.images])[:, :, 0, 0]
    assert len(colours.unique(dim=0)) == 35  # no image is in both
    assert astuple(first.normalization) == channel_statistics(first.train.images)


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG", "webp", "bmp", "gif", "ppm", "tif"])
def test_formats(tmp_path, suffix):
    paint_classes(tmp_path)
    paint(tmp_path / "red" / f"other.{suffix}", RED, size=(40, 40))
    images = load("folder", tmp_path)
    assert len(images.train) + len(images.test) == 11
    reds = torch.cat([split.images[split.labels == 1] for split in (images.train, images.test)])
    assert (reds.int() - torch.tensor(RED).view(3, 1, 1)).abs().max() <= 2


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_other_modes_become_rgb(tmp_path, mode):
    paint_classes(tmp_path / "train", 1)
    path = paint(tmp_path / "test" / "red" / f"x.{'tif' if mode == 'CMYK' else 'png'}")
    Image.new(mode, (20, 20)).save(path)
    assert load("folder", tmp_path).test.images.shape == (1, 3, 32, 32)


def test_16_bits_become_8(tmp_path):
    paint_classes(tmp_path / "train", 1)
    (tmp_path / "test" / "red").mkdir(parents=True)
    Image.fromarray(np.full((32, 32), 40_000, np.uint16)).save(tmp_path / "test" / "red" / "grey.png")
    assert load("folder", tmp_path).test.images.unique().tolist() == [40_000 // 256]


def test_the_shorter_side_is_fitted_and_the_middle_kept(tmp_path):
    paint_classes(tmp_path / "train", 1)
    pixels = np.zeros((20, 60, 3), np.uint8)  # black, with a middle third of red
    pixels[:, 20:40, 0] = 255
    (tmp_path / "test" / "red").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "test" / "red" / "wide.png")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "test" / "red" / "tall.png")
    wide, tall = load("folder", tmp_path, image_size=8).test.images.flip(0)
    for image in (wide, tall):
        assert image.shape == (3, 8, 8)
        assert image[1:].max() == 0
        assert image[0].min() >= 200  # the edges take a little of their neighbours


def test_photographs_are_turned_upright(tmp_path):
    paint_classes(tmp_path / "train", 1)
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16] = RED
    exif = Image.Exif()
    exif[0x0112] = 3  # taken upside down
    (tmp_path / "test" / "red").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "test" / "red" / "photo.png", exif=exif)
    (image,) = load("folder", tmp_path).test.images
    assert image[0, :16].max() == 0
    assert image[0, 16:].min() == 255


def test_other_files_are_passed_over(tmp_path):
    paint_classes(tmp_path)
    (tmp_path / "readme.txt").touch()
    (tmp_path / "red" / "notes.txt").touch()
    (tmp_path / "red" / "._0.png").touch()  # as macOS leaves behind
    paint(tmp_path / ".cache" / "x.png")
    dataset = load("folder", tmp_path)
    assert dataset.classes == ("blue", "red")
    assert len(dataset.train) + len(dataset.test) == 10


def test_a_missing_folder(tmp_path):
    refused(tmp_path / "nowhere", tmp_path / "nowhere", "data_dir")


def test_one_class(tmp_path):
    paint(tmp_path / "only" / "x.png")
    before = sorted(tmp_path.rglob("*"))
    refused(tmp_path, tmp_path, "1 class", "at least two")
    assert sorted(tmp_path.rglob("*")) == before


def test_no_images(tmp_path):
    paint_classes(tmp_path)
    (tmp_path / "empty").mkdir()
    refused(tmp_path, tmp_path / "empty", "no images")
    paint_classes(tmp_path / "more" / "train")
    (tmp_path / "more" / "test" / "red").mkdir(parents=True)
    refused(tmp_path / "more", tmp_path / "more" / "test", "no images")


def test_train_without_test(tmp_path):
    paint_classes(tmp_path / "train")
    refused(tmp_path, tmp_path / "test")


def test_a_class_that_is_only_in_the_test_set(tmp_path):
    paint_classes(tmp_path / "train")
    paint(tmp_path / "test" / "green" / "x.png")
    refused(tmp_path, tmp_path / "test" / "green")


@pytest.mark.parametrize("fault", ["empty", "text", "truncated", "folder", "bomb"])
def test_an_unreadable_image_is_named(tmp_path, monkeypatch, fault):
    paint_classes(tmp_path)
    path = tmp_path / "red" / "bad.png"
    if fault == "empty":
        path.touch()
    elif fault == "text":
        path.write_text("not an image")
    elif fault == "truncated":
        content = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(content).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    elif fault == "folder":
        path.mkdir()
    else:
        paint(path, size=(100, 100))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    refused(tmp_path, path, "repair or remove it")


def test_image_size_is_checked(tmp_path):
    refused(tmp_path, "image_size", image_size=0)
