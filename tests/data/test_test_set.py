"""Other test sets: from folders and arrays to the same tensors, by the same names, and every fault named in a line."""

from __future__ import annotations

import os
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from flatnext import data
from flatnext.data import load, read_test_set
from flatnext.errors import FallbackWarning, InputError
from flatnext.pictures import convert

CLASSES = ("airplane", "automobile", "bird")
COUNT = 7
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8)
NUMBERS = np.array([2, 0, 1, 1, 2, 0, 0])


def write_folder(folder, pixels=PIXELS, numbers=NUMBERS, classes=CLASSES):
    for index, (image, label) in enumerate(zip(pixels, numbers, strict=True)):
        (folder / classes[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / classes[label] / f"{index}.png")
    return folder


def write_pair(folder, name="cifar10.1_v6", pixels=PIXELS, numbers=NUMBERS):
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{name}_data.npy", pixels)
    np.save(folder / f"{name}_labels.npy", numbers)
    return folder / f"{name}_data.npy"


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def assert_same(split, pixels=PIXELS, numbers=NUMBERS):
    assert (split.images.dtype, split.labels.dtype) == (torch.uint8, torch.int64)
    np.testing.assert_array_equal(split.images.numpy().transpose(0, 2, 3, 1), pixels)
    np.testing.assert_array_equal(split.labels.numpy(), numbers)


# What is read


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, ">i4"])
def test_a_pair_as_cifar_10_1_is_published(tmp_path, dtype):
    file = write_pair(tmp_path / "datasets", numbers=NUMBERS.astype(dtype))
    for path in (file, file.parent, str(file)):
        assert_same(read_test_set(path, CLASSES, 8))
        assert data.test_set_name(path) == "cifar10.1_v6"


@pytest.mark.parametrize("keys", [("images", "labels"), ("data", "labels"), ("x", "y"), ("x_test", "y_test")])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz(tmp_path, keys, save):
    path = tmp_path / "cifar10.2.npz"
    save(path, **dict(zip(keys, (PIXELS, NUMBERS), strict=True)), x_train=PIXELS[:1], y_train=NUMBERS[:1])
    assert_same(read_test_set(path, CLASSES, 8))
    assert data.test_set_name(path) == "cifar10.2"


def test_channels_may_come_first_and_labels_be_a_column(tmp_path):
    file = write_pair(tmp_path, pixels=PIXELS.transpose(0, 3, 1, 2), numbers=NUMBERS[:, None])
    assert_same(read_test_set(file, CLASSES, 8))


def test_a_folder_of_class_folders(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "CINIC.10")
    (folder / ".cache").mkdir()
    order = np.argsort(NUMBERS, kind="stable")
    assert_same(read_test_set(folder, CLASSES, 8), PIXELS[order], NUMBERS[order])
    assert data.test_set_name(folder) == "CINIC.10"
    monkeypatch.chdir(folder)
    assert data.test_set_name(".") == "CINIC.10"


def test_some_of_the_classes_keep_their_numbers(tmp_path):
    folder = write_folder(tmp_path / "birds", PIXELS[:2], [2, 2])
    assert_same(read_test_set(folder, CLASSES, 8), PIXELS[:2], [2, 2])


@pytest.mark.parametrize("shape", [(12, 12), (8, 20), (20, 8), (5, 4)])
def test_arrays_are_resized_as_images_of_a_folder(tmp_path, shape):
    pixels = np.random.default_rng(1).integers(0, 256, (COUNT, *shape, 3), dtype=np.uint8)
    order = np.argsort(NUMBERS, kind="stable")
    file = write_pair(tmp_path, pixels=pixels[order], numbers=NUMBERS[order])
    from_arrays = read_test_set(file, CLASSES, 8)
    from_images = read_test_set(write_folder(tmp_path / "images", pixels), CLASSES, 8)
    assert from_arrays.images.shape == (COUNT, 3, 8, 8)
    assert torch.equal(from_arrays.images, from_images.images)
    assert torch.equal(from_arrays.labels, from_images.labels)


def test_the_middle_is_kept(tmp_path):
    pixels = np.zeros((1, 4, 12, 3), np.uint8)
    pixels[:, :, 4:8] = 200
    split = read_test_set(write_pair(tmp_path, pixels=pixels, numbers=[1]), CLASSES, 4)
    assert split.images.unique().tolist() == [200]


def test_a_folder_is_read_as_the_data_set_folder_is(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (COUNT, 30, 40, 3), dtype=np.uint8)
    for part in ("train", "test"):
        write_folder(tmp_path / part, pixels)
    dataset = load("folder", tmp_path, image_size=16)
    split = read_test_set(tmp_path / "test", dataset.classes, 16)
    assert torch.equal(split.images, dataset.test.images)
    assert torch.equal(split.labels, dataset.test.labels)


def test_grey_arrays(tmp_path):
    grey = PIXELS[..., 0]
    for form in (grey, grey[..., None], grey[:, None]):
        file = write_npz(tmp_path / "set.npz", images=form, labels=NUMBERS)
        assert np.array_equal(read_test_set(file, CLASSES, 8, channels=1).images[:, 0], grey)
        split = read_test_set(file, CLASSES, 8)
        assert torch.equal(split.images, torch.from_numpy(grey)[:, None].expand(-1, 3, -1, -1))
    colour = write_npz(tmp_path / "set.npz", images=PIXELS, labels=NUMBERS)
    luma = [np.asarray(Image.fromarray(image).convert("L")) for image in PIXELS]
    assert np.array_equal(read_test_set(colour, CLASSES, 8, channels=1).images[:, 0], luma)


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_are_read_as_files_are(tmp_path, resize, channels):
    pixels = np.random.default_rng(1).integers(0, 256, (COUNT, 10, 20, 3), dtype=np.uint8)
    file = write_npz(tmp_path / "set.npz", images=pixels, labels=NUMBERS)
    images = read_test_set(file, CLASSES, 8, channels=channels, resize=resize).images
    for found, image in zip(images, pixels, strict=True):
        expected = convert(Image.fromarray(image), size=8, resize=resize, channels=channels)
        assert np.array_equal(found.permute(1, 2, 0), expected)


def test_files_that_are_not_used_are_named(tmp_path):
    write_folder(tmp_path, np.zeros((COUNT, 8, 8, 3), np.uint8))
    (tmp_path / CLASSES[0] / "labels.csv").touch()
    (tmp_path / ".DS_Store").touch()
    with pytest.warns(FallbackWarning, match=r"not used in .*: 1 \(.*labels.csv\)"):
        assert len(read_test_set(tmp_path, CLASSES, 8)) == COUNT


# What is refused


def refused(path, *words, size=8):
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(InputError) as caught:
        read_test_set(path, CLASSES, size)
    message = str(caught.value)
    assert "\n" not in message
    for word in (path, *words):
        assert str(word) in message
    assert sorted(path.parent.rglob("*")) == before


def test_what_is_no_test_set(tmp_path):
    refused(tmp_path / "nowhere", "does not exist: give a folder of class folders")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no test set: give a folder of class folders")
    for name in ("x.pkl", "x.npy", "x_labels.npy"):
        (tmp_path / name).touch()
        refused(tmp_path / name, "is not a test set: give a folder of class folders")
    with pytest.raises(InputError, match="does not exist"):
        data.test_set_name(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["frog", "Bird", "test"])
def test_an_unknown_class(tmp_path, name):
    folder = write_folder(tmp_path / "set")
    write_folder(folder, PIXELS[:1], [0], [name])
    refused(folder, folder / name, "not a class of the model", "airplane, automobile, bird")


def test_a_class_without_images(tmp_path):
    folder = write_folder(tmp_path / "set", PIXELS[:2], [0, 1])
    (folder / "bird").mkdir()
    refused(folder, folder / "bird", "holds no images")


def test_a_damaged_image(tmp_path):
    folder = write_folder(tmp_path / "set")
    (folder / "bird" / "9.png").write_text("none")
    refused(folder, folder / "bird" / "9.png", "repair or remove it")
    with pytest.warns(FallbackWarning, match=r"1 file that cannot be read was left out: .*9\.png"):
        assert len(read_test_set(folder, CLASSES, 8, skip_damaged=True)) == COUNT


def test_damaged_images_alone(tmp_path):
    (tmp_path / "bird").mkdir()
    (tmp_path / "bird" / "9.png").write_text("none")
    with pytest.warns(FallbackWarning), pytest.raises(InputError, match="no image can be read: repair some"):
        read_test_set(tmp_path, CLASSES, 8, skip_damaged=True)


def test_two_sets_in_a_folder(tmp_path):
    first, second = write_pair(tmp_path / "sets", "v4"), write_pair(tmp_path / "sets", "v6")
    refused(tmp_path / "sets", "holds 2 test sets", first, second)
    second.unlink()
    write_folder(tmp_path / "sets")
    refused(tmp_path / "sets", "holds folders and v4_data.npy", first)


def test_missing_labels(tmp_path):
    file = write_pair(tmp_path)
    (tmp_path / "cifar10.1_v6_labels.npy").unlink()
    refused(tmp_path, tmp_path / "cifar10.1_v6_labels.npy", "is missing")
    assert data.test_set_name(file) == "cifar10.1_v6"


@pytest.mark.parametrize("part", ["data", "labels"])
@pytest.mark.parametrize("fault", ["empty", "text", "truncated", "header", "pickled"])
def test_a_damaged_npy(tmp_path, part, fault):
    file = write_pair(tmp_path)
    path = tmp_path / f"cifar10.1_v6_{part}.npy"
    content = path.read_bytes()
    damaged = {
        "empty": b"",
        "text": b"not an array",
        "truncated": content[:-9],
        "header": content[:20] + b"{" * 60 + content[80:],
    }
    if fault == "pickled":
        np.save(path, np.array([print, None], dtype=object), allow_pickle=True)
    else:
        path.write_bytes(damaged[fault])
    with pytest.raises(InputError, match="cannot be read") as caught:
        read_test_set(file, CLASSES, 8)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", ["empty", "text", "truncated", "bits", "array", "member", "pickled"])
def test_a_damaged_npz(tmp_path, fault):
    path = write_npz(tmp_path / "set.npz", images=PIXELS, labels=NUMBERS)
    content = path.read_bytes()
    damaged = {
        "empty": b"",
        "text": b"not an archive",
        "truncated": content[:-200],
        "bits": content[:300] + b"flipped" + content[307:],
    }
    if fault == "array":
        np.save(tmp_path / "x.npy", PIXELS)
        shutil.move(tmp_path / "x.npy", path)
    elif fault == "member":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", "not an array")
            archive.writestr("labels.npy", "not an array")
    elif fault == "pickled":
        write_npz(path, images=PIXELS, labels=np.array([print, None], dtype=object))
    else:
        path.write_bytes(damaged[fault])
    refused(path, "cannot be read", "complete .npz file of plain arrays")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pictures": PIXELS, "labels": NUMBERS}, ("holds pictures, labels", "images and labels, or data and labels")),
        ({}, ("holds nothing",)),
        ({"images": PIXELS, "data": PIXELS, "labels": NUMBERS}, ("give one pair",)),
    ],
    ids=["other names", "no names", "two pairs"],
)
def test_an_npz_with_other_arrays(tmp_path, arrays, words):
    refused(write_npz(tmp_path / "set.npz", **arrays), *words)


BAD = {
    "float images": (PIXELS / 255, NUMBERS, "is float64 (7, 8, 8, 3): give images as uint8"),
    "one image": (PIXELS[0, :, :, 0], NUMBERS[:1], "N x H x W x 3 or N x 3 x H x W, or grey ones N x H x W"),
    "four channels": (np.zeros((7, 8, 8, 4), np.uint8), NUMBERS, "N x H x W x 3 or N x 3 x H x W"),
    "channels first or last": (np.zeros((7, 3, 8, 3), np.uint8), NUMBERS, "more than 3 pixels high"),
    "no images": (PIXELS[:0], NUMBERS[:0], "give at least one image"),
    "no pixels": (PIXELS[:, :0], NUMBERS, "give at least one image"),
    "fewer labels": (PIXELS, NUMBERS[:-1], "6 labels for 7 images"),
    "more labels": (PIXELS, np.append(NUMBERS, 0), "8 labels for 7 images"),
    "a label too high": (PIXELS, NUMBERS + 1, "from 1 to 3: the model knows 3 classes, so give 0 to 2"),
    "a label too low": (PIXELS, NUMBERS - 1, "from -1 to 1"),
    "float labels": (PIXELS, NUMBERS / 1, "give N integers"),
    "one-hot labels": (PIXELS, np.eye(3, dtype=int)[NUMBERS], "give N integers"),
    "one number": (PIXELS, np.array(3), "give N integers"),
    "named labels": (PIXELS, np.array(CLASSES)[NUMBERS], "give N integers"),
}


@pytest.mark.parametrize("case", BAD)
def test_arrays_that_do_not_fit(tmp_path, case):
    pixels, numbers, words = BAD[case]
    part = "data" if "image" in case or case in ("four channels", "channels first or last", "no pixels") else "labels"
    file = write_pair(tmp_path / "pair", "set", pixels, numbers)
    refused(file.parent, file.with_name(f"set_{part}.npy"), words)
    refused(write_npz(tmp_path / "set.npz", images=pixels, labels=numbers), words)


def test_the_size_is_checked(tmp_path):
    with pytest.raises(InputError, match="image_size is 0"):
        read_test_set(write_pair(tmp_path), CLASSES, 0)


@pytest.mark.parametrize("name", ["x.npz", "x_data.npy"])
def test_a_pipe_is_refused_at_once(tmp_path, name):
    os.mkfifo(tmp_path / name)
    np.save(tmp_path / "x_labels.npy", NUMBERS)
    with pytest.raises(InputError, match="not a regular file"):
        read_test_set(tmp_path / name, CLASSES, 8)
