"""The figures that `flatnext data` shows."""

import pytest
from cifar_files import layout_of, write_set
from loaders import make_dataset

from flatnext.data import describe, load


def test_figures(tmp_path):
    dataset = make_dataset()
    lines = describe(dataset, tmp_path).splitlines()
    assert lines[0] == "some: 30 training and 3 test images of 8 x 8 pixels, 3 classes"
    assert [line.split() for line in lines[3:6]] == [["class", f"${label}$", "10", "1"] for label in range(3)]
    assert lines[-1].split()[-6:] == ["0.5000", "0.4000", "0.3000", "0.3000", "0.2000", "0.1000"]
    pixels = dataset.train.images.double() / 255
    measured = [*pixels.mean((0, 2, 3)).tolist(), *pixels.std((0, 2, 3), correction=0).tolist()]
    assert lines[-2].split()[-6:] == [f"{value:.4f}" for value in measured]


@pytest.mark.cifar10
@pytest.mark.parametrize("kind", ["py", "bin"])
def test_published_files_are_recognised(cifar10_dir, kind):
    folder = cifar10_dir / f"cifar-10-batches-{kind}"
    text = describe(load("cifar10", folder), folder)
    assert text.endswith(f"files in {folder}: MD5 of all 6 batches as published")
    assert "0.4914  0.4822  0.4465    0.2470  0.2435  0.2616" in text


def test_other_files_are_told_from_the_published_ones(tmp_path):
    name, layout = layout_of("cifar10-binary")
    write_set(tmp_path, layout)
    dataset = load(name, tmp_path)
    assert "MD5 NOT as published: data_batch_1.bin, data_batch_2.bin" in describe(dataset, tmp_path)
    (tmp_path / layout.train[0]).unlink()
    assert "no longer in" in describe(dataset, tmp_path)
