"""CIFAR's files: the published ones pixel for pixel, small ones in every layout, and damaged ones."""

import os
import pickle
from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
from cifar_files import LAYOUT_IDS, layout_of, make_batches, names, write_python_batch, write_set

from flatnext.data import cifar, load
from flatnext.data.normalization import channel_statistics
from flatnext.errors import InputError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def one_line(caught, *words):
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message
    return message


@pytest.mark.cifar10
@pytest.mark.parametrize("inside", [False, True], ids=["holds the folder", "is the folder"])
@pytest.mark.parametrize("kind", ["py", "bin"])
def test_published_files_are_read_pixel_for_pixel(cifar10_dir, tmp_path, kind, inside):
    folder = cifar10_dir / f"cifar-10-batches-{kind}"
    binary = cifar10_dir / "cifar-10-batches-bin"
    if not (folder.is_dir() and binary.is_dir()):
        pytest.skip("both layouts are compared")
    if not inside:
        (tmp_path / folder.name).symlink_to(folder.absolute())
    dataset = load("cifar10", folder if inside else tmp_path, download=False)
    assert dataset.classes == CLASSES
    for split, files in (
        (dataset.train, [f"data_batch_{i}.bin" for i in range(1, 6)]),
        (dataset.test, ["test_batch.bin"]),
    ):
        records = np.concatenate([np.fromfile(binary / file, np.uint8).reshape(10_000, 3073) for file in files])
        assert len(split) == len(records) == (50_000 if split is dataset.train else 10_000)
        assert np.array_equal(split.labels.numpy(), records[:, 0])
        assert np.array_equal(split.images.numpy(), records[:, 1:].reshape(-1, 3, 32, 32))


@pytest.mark.cifar10
def test_published_mean_is_that_of_the_baseline(cifar10_dir):
    dataset = load("cifar10", cifar10_dir, download=False)
    mean, std = channel_statistics(dataset.train.images)
    assert tuple(round(value, 4) for value in mean) == dataset.normalization.mean == (0.4914, 0.4822, 0.4465)
    assert dataset.normalization.std == (0.2023, 0.1994, 0.2010)
    pixels = dataset.train.images[:, 1].double() / 255
    assert std[1] == pytest.approx(pixels.std(correction=0).item())
    # The std of the baseline paper is the mean over images of an image's own std.
    assert pixels.flatten(1).std(1).mean().item() == pytest.approx(0.1994, abs=2e-4)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("identifier", LAYOUT_IDS)
def test_every_layout_is_read(tmp_path, identifier, inside):
    name, layout = layout_of(identifier)
    folder = tmp_path / layout.archive.folder
    batches = write_set(folder, layout)
    dataset = load(name, folder if inside else tmp_path, download=False)
    assert dataset.classes == tuple(names(layout))
    for split, files in ((dataset.train, layout.train), (dataset.test, [layout.test])):
        pixels = np.concatenate([batches[file][0] for file in files])
        assert split.labels.tolist() == [label for file in files for label in batches[file][1]]
        # Red, green and blue planes one after another, rows from the top.
        for number, (channel, row, column) in enumerate([(0, 0, 0), (0, 0, 31), (1, 2, 3), (2, 31, 31)]):
            assert split.images[number, channel, row, column] == pixels[number, channel * 1024 + row * 32 + column]


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_arrays_of_old_and_new_numpy_are_read(tmp_path, module):
    name, layout = layout_of("cifar10-python")
    batches = write_set(tmp_path, layout)
    pixels, labels = batches[layout.test]
    content = pickle.dumps({"data": pixels, "labels": labels}, protocol=3)
    both = (b"numpy._core.multiarray", b"numpy.core.multiarray")
    content = content.replace(both[0], module) if both[0] in content else content.replace(both[1], module)
    assert module in content
    (tmp_path / layout.test).write_bytes(content)
    images = load(name, tmp_path, download=False).test.images
    assert np.array_equal(images.numpy().reshape(-1, 3072), pixels)


def test_arrays_in_columns_are_read(tmp_path):
    name, layout = layout_of("cifar10-python")
    batches = write_set(tmp_path, layout)
    pixels, labels = batches[layout.test]
    write_python_batch(tmp_path / layout.test, layout, np.asfortranarray(pixels), labels)
    assert np.array_equal(load(name, tmp_path).test.images.numpy().reshape(-1, 3072), pixels)


def test_other_sets_are_normalised_by_their_own_pixels(tmp_path):
    name, layout = layout_of("cifar100-binary")
    write_set(tmp_path / layout.archive.folder, layout)
    dataset = load(name, tmp_path)
    assert astuple(dataset.normalization) == channel_statistics(dataset.train.images)


def test_a_constant_channel_has_a_usable_std(tmp_path):
    name, layout = layout_of("cifar100-binary")
    batches = {file: (pixels * 0, labels) for file, (pixels, labels) in make_batches(layout).items()}
    write_set(tmp_path, layout, batches)
    assert load(name, tmp_path).normalization.std == (1.0, 1.0, 1.0)


def damaged(change):
    """Return a test's inputs: bytes for the test batch, from its good pixels and labels."""

    def write(path, layout, pixels, labels):
        pixels, labels = change(pixels, labels)
        write_python_batch(path, layout, pixels, labels)

    return write


DAMAGES = {
    "truncated": lambda path, layout, pixels, labels: (
        write_python_batch(path, layout, pixels, labels),
        os.truncate(path, path.stat().st_size // 2),
    ),
    "empty file": lambda path, *_: path.write_bytes(b""),
    "no pickle": lambda path, *_: path.write_bytes(b"<html>404</html>"),
    "no dict": lambda path, *_: path.write_bytes(pickle.dumps([1, 2])),
    "no data": lambda path, layout, pixels, labels: path.write_bytes(pickle.dumps({"labels": labels})),
    "missing": lambda path, *_: path.unlink(),
    "no images": damaged(lambda pixels, labels: (pixels[:0], [])),
    "label missing": damaged(lambda pixels, labels: (pixels, labels[1:])),
    "label too high": damaged(lambda pixels, labels: (pixels, [10, *labels[1:]])),
    "label negative": damaged(lambda pixels, labels: (pixels, [-1, *labels[1:]])),
    "label huge": damaged(lambda pixels, labels: (pixels, [2**80, *labels[1:]])),
    "labels are words": damaged(lambda pixels, labels: (pixels, ["cat"] * len(labels))),
    "too few pixels": damaged(lambda pixels, labels: (pixels[:, :3000], labels)),
    "one row": damaged(lambda pixels, labels: (pixels[0], labels)),
    "floats": damaged(lambda pixels, labels: (pixels.astype(np.float32), labels)),
    "objects": damaged(lambda pixels, labels: (pixels[:, :3072].astype(object)[:1], labels[:1])),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_batch_is_named(tmp_path, damage):
    name, layout = layout_of("cifar10-python")
    batches = write_set(tmp_path, layout)
    DAMAGES[damage](tmp_path / layout.test, layout, *batches[layout.test])
    with pytest.raises(InputError) as caught:
        load(name, tmp_path)
    one_line(caught, tmp_path / layout.test, "published")


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "published"), (b"", "truncated"), (bytes(3072), "truncated"), (b"\x0a" + bytes(3072), "labels")],
)
def test_a_damaged_binary_batch_is_named(tmp_path, content, words):
    name, layout = layout_of("cifar10-binary")
    write_set(tmp_path, layout)
    path = tmp_path / layout.test
    path.write_bytes(content) if content is not None else path.unlink()
    with pytest.raises(InputError) as caught:
        load(name, tmp_path)
    one_line(caught, path, words)


@pytest.mark.parametrize("identifier", LAYOUT_IDS)
def test_a_damaged_list_of_classes_is_named(tmp_path, identifier):
    name, layout = layout_of(identifier)
    write_set(tmp_path, replace(layout, classes=layout.classes - 1))
    with pytest.raises(InputError) as caught:
        load(name, tmp_path)
    one_line(caught, tmp_path / layout.meta, "class names")


def test_missing_without_download_says_what_is_wanted(tmp_path):
    with pytest.raises(InputError) as caught:
        load("cifar10", tmp_path / "none", download=False)
    one_line(caught, tmp_path / "none", "cifar-10-batches-py", "cifar-10-batches-bin")
    assert not (tmp_path / "none").exists()


def test_the_python_layout_comes_first(tmp_path):
    first, second = cifar.LAYOUTS["cifar10"]
    write_set(tmp_path / second.archive.folder, second)
    expected = write_set(tmp_path / first.archive.folder, first, make_batches(first, seed=1))
    assert torch.equal(load("cifar10", tmp_path).test.images.flatten(1), torch.from_numpy(expected["test_batch"][0]))
