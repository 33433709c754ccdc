"""Accuracy under corruption against a plain loop, and the published files, whole and damaged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flatnext.errors import InputError
from flatnext.evaluation.corruptions import (
    NAMES,
    SEVERITIES,
    corrupt,
    evaluate_cifar10_c,
    evaluate_corruptions,
    read_cifar10_c,
)


def dark_or_bright(images):
    """Return logits of two classes that tell dark pictures from bright ones."""
    brightness = images.double().mean(dim=(1, 2, 3))
    return torch.stack([127 - brightness, brightness - 127], dim=1)


def pictures(count=13, side=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(60, 180, (count, 1, 1, 1), generator=generator)
    noise = torch.randint(0, 40, (count, 3, side, side), generator=generator)
    return (images + noise).to(torch.uint8), dark_or_bright(images + noise).argmax(dim=1)


@pytest.mark.parametrize("batch_size", [4, 100])
def test_scores_are_those_of_a_plain_loop(batch_size):
    images, labels = pictures()
    labels[0] = 1 - labels[0]
    calls = []
    scores = evaluate_corruptions(
        dark_or_bright, images, labels, seed=3, batch_size=batch_size, progress=lambda *call: calls.append(call)
    )
    for name in NAMES:
        expected = [
            float((dark_or_bright(corrupt(images, name, severity, 3)).argmax(dim=1) == labels).double().mean())
            for severity in SEVERITIES
        ]
        assert scores.accuracy[name] == pytest.approx(expected)
    assert scores.clean == pytest.approx(12 / 13)
    assert min(scores.accuracy["brightness"]) < scores.clean
    values = np.array(list(scores.accuracy.values()))
    assert scores.mean == pytest.approx(values.mean())
    assert list(scores.by_severity.values()) == pytest.approx(values.mean(axis=0))
    assert calls[-1] == (76 * 13, 76 * 13)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


def test_some_corruptions():
    images, labels = pictures()
    scores = evaluate_corruptions(dark_or_bright, images, labels, names=["fog", "contrast"], severities=[5, 1])
    assert list(scores.accuracy) == ["fog", "contrast"]
    assert scores.severities == (5, 1)
    assert (scores.source, scores.seed, scores.count, scores.clean) == ("generated", 0, 13, 1.0)
    assert scores.accuracy["contrast"] == (1.0, 1.0)  # it keeps the mean
    assert scores.by_corruption["fog"] == pytest.approx(np.mean(scores.accuracy["fog"]))
    assert scores.mean == pytest.approx(np.mean(list(scores.by_corruption.values())))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": []}, r"names are \[\]: give at least one"),
        ({"names": ["fog", "fog"]}, "each once"),
        ({"names": ["rain"]}, "corruption is 'rain'"),
        ({"severities": [6]}, "severity is 6"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"labels are torch.int64 \(3,\)"),
        ({"predict": lambda images: torch.zeros(len(images))}, r"predict returned \(13,\) for 13 images"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_settings(changes, message):
    images, labels = pictures()
    with pytest.raises(InputError, match=message):
        evaluate_corruptions(**{"predict": dark_or_bright, "images": images, "labels": labels, **changes})


# The published files


@pytest.fixture
def folder(tmp_path):
    """Return a folder laid out as the published one, with 4 images at each severity of 3 corruptions."""
    where = tmp_path / "CIFAR-10-C"
    where.mkdir()
    for number, name in enumerate(("fog", "snow", "frost")):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
        np.save(where / f"{name}.npy", pixels)
    np.save(where / "labels.npy", np.tile(np.array([0, 1, 1, 0], np.uint8), 5))
    return where


def test_reads_the_published_layout(folder):
    for place in (folder, str(folder.parent)):
        published = read_cifar10_c(place, ["fog", "snow"])
        assert published.labels.tolist() == [0, 1, 1, 0]
        assert published.labels.dtype == torch.int64
        pixels = np.load(folder / "snow.npy")
        assert (published.images("snow", 2).permute(0, 2, 3, 1).numpy() == pixels[4:8]).all()
        assert (published.images("snow", 5, 1, 3).permute(0, 2, 3, 1).numpy() == pixels[17:19]).all()
    with pytest.raises(InputError, match=r"frost\.npy was not read"):
        published.images("frost", 1)
    with pytest.raises(InputError, match="severity is 6"):
        published.images("fog", 6)


def test_scores_of_the_published_images(folder):
    published = read_cifar10_c(folder, ["fog", "snow"])
    calls = []
    scores = evaluate_cifar10_c(
        dark_or_bright, published, severities=(1, 4), limit=3, batch_size=2, progress=lambda *call: calls.append(call)
    )
    for name in ("fog", "snow"):
        for severity, found in zip((1, 4), scores.accuracy[name], strict=True):
            predicted = dark_or_bright(published.images(name, severity)).argmax(dim=1)[:3]
            assert found == pytest.approx(float((predicted == published.labels[:3]).double().mean()))
    assert (scores.source, scores.seed, scores.clean, scores.count) == ("published", None, None, 3)
    assert calls == [(done, 12) for done in (2, 3, 5, 6, 8, 9, 11, 12)]
    with pytest.raises(InputError, match="limit is 5: give 1 to 4"):
        evaluate_cifar10_c(dark_or_bright, published, limit=5)


def save(name, content):
    def change(folder):
        np.save(folder / name, content, allow_pickle=True)

    return change


def cut(name, size):
    def change(folder):
        (folder / name).write_bytes((folder / name).read_bytes()[:size])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "fog.npy").unlink(), r"fog\.npy is missing"),
        (lambda folder: (folder / "labels.npy").unlink(), r"labels\.npy is missing"),
        (cut("fog.npy", 5000), r"fog\.npy is no whole \.npy file"),
        (cut("fog.npy", 0), r"fog\.npy is no whole"),
        (cut("fog.npy", 60), r"fog\.npy is no whole"),
        (save("fog.npy", np.array([{}])), r"fog\.npy is no whole"),
        (save("fog.npy", np.zeros((20, 3, 32, 32), np.uint8)), r"fog\.npy is uint8 .*, not uint8 \(20, 32, 32, 3\)"),
        (save("fog.npy", np.zeros((20, 32, 32, 3))), r"fog\.npy is float64"),
        (save("labels.npy", np.zeros(19, np.uint8)), r"labels\.npy is uint8 \(19,\)"),
        (save("labels.npy", np.zeros(20)), r"labels\.npy is float64"),
        (save("labels.npy", np.arange(20)), "not the same labels at each severity"),
        (save("labels.npy", np.full(20, -1)), "not the same labels"),
    ],
)
def test_damaged_files(folder, change, message):
    change(folder)
    with pytest.raises(InputError, match=message) as error:
        read_cifar10_c(folder, ["fog"])
    assert "\n" not in str(error.value)


def test_no_folder_and_no_such_corruption(tmp_path, folder):
    with pytest.raises(InputError, match="is no folder"):
        read_cifar10_c(tmp_path / "nothing")
    with pytest.raises(InputError, match="corruption is 'rain'"):
        read_cifar10_c(folder, ["rain"])
    with pytest.raises(InputError, match=r"gaussian_noise\.npy is missing"):
        read_cifar10_c(folder)
