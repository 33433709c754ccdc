"""Mixup and CutMix beside NumPy, and in the loader together with the other augmentations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loaders import NORMALIZATION, collect, make_loader, make_split

from flatnext.config import Data
from flatnext.data import Loader, Split
from flatnext.data.mixing import Mixture, draw_mixtures, mix_images, mix_labels, rectangle
from flatnext.errors import InputError

MIXED = {
    "mixup": {"mixup": 0.4, "classes": 37},
    "cutmix": {"cutmix": 1.0, "classes": 37},
    "both": {"mixup": 0.4, "cutmix": 1.0, "classes": 37},
}


def by_numpy(images, labels, mixture, classes):
    """Return a batch mixed with itself in reverse, image by image, and its targets."""
    images, count = images.double().numpy(), len(labels)
    mixed, targets = images.copy(), np.zeros((count, classes))
    _, height, width = images.shape[1:]
    for i in range(count):
        other, share = count - 1 - i, mixture.share
        if mixture.centre is None:
            mixed[i] = share * images[i] + (1 - share) * images[other]
        else:
            side_y, side_x = int(height * np.sqrt(1 - share)), int(width * np.sqrt(1 - share))
            y, x = int(mixture.centre[0] * height), int(mixture.centre[1] * width)
            taken = 0
            for row in range(y - side_y // 2, y + side_y // 2):
                for column in range(x - side_x // 2, x + side_x // 2):
                    if 0 <= row < height and 0 <= column < width:
                        mixed[i, :, row, column] = images[other, :, row, column]
                        taken += 1
            share = 1 - taken / (height * width)
        targets[i, labels[i]] += share
        targets[i, labels[other]] += 1 - share
    return mixed, targets


@pytest.mark.parametrize("kind", MIXED)
@pytest.mark.parametrize("sizes", [None, (4, 6)])
def test_the_loader_mixes_as_numpy_does(kind, sizes):
    split = make_split(37, 8, 8)
    options = {"batch_size": 8, "crop_padding": 2, "flip": "random", "cutout": 2, "early_sizes": sizes}
    loader = make_loader(split, dtype=torch.float64, **options, **MIXED[kind])
    plain = make_loader(split, dtype=torch.float64, **options)
    for epoch in (0, 2):
        mixtures = loader.draws(epoch).mixtures
        assert len(mixtures) == len(loader) == 5
        for (images, targets), (unmixed, labels), mixture in zip(
            loader.epoch(epoch), plain.epoch(epoch), mixtures, strict=True
        ):
            expected, expected_targets = by_numpy(unmixed, labels, mixture, 37)
            np.testing.assert_allclose(images.numpy(), expected, rtol=0, atol=1e-12)
            np.testing.assert_allclose(targets.numpy(), expected_targets, rtol=0, atol=1e-12)
            assert targets.dtype == torch.float64
            np.testing.assert_allclose(targets.sum(1), 1, rtol=0, atol=1e-12)
            assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", MIXED)
@pytest.mark.parametrize("augment", ["none", "trivial", "randaugment"])
def test_the_shares_of_processes_are_the_whole(kind, augment):
    split = make_split(37, 8, 8)
    options = {**MIXED[kind], "augment": augment}
    whole = list(make_loader(split, **options).epoch(1))
    parts = [list(make_loader(split, rank=rank, ranks=3, **options).epoch(1)) for rank in range(3)]
    for step, (images, targets) in enumerate(whole):
        for rank in range(3):
            assert torch.equal(parts[rank][step][0], images[rank::3])
            assert torch.equal(parts[rank][step][1], targets[rank::3])


@pytest.mark.parametrize("kind", [*MIXED, "neither"])
@pytest.mark.parametrize("augment", ["none", "trivial", "randaugment"])
def test_a_mixed_epoch_can_be_entered_at_any_step(kind, augment):
    options = {**MIXED.get(kind, {}), "augment": augment, "flip": "alternating"}
    full = list(make_loader(make_split(), **options).epoch(3))
    for start in range(6):
        rest = list(make_loader(make_split(), **options).epoch(3, start))
        assert len(rest) == 5 - start
        for (images, targets), (expected, expected_targets) in zip(rest, full[start:], strict=True):
            assert torch.equal(images, expected)
            assert torch.equal(targets, expected_targets)


def test_operations_come_before_crop_and_flip_and_change_nothing_else():
    split = make_split(37, 8, 8)
    loader = make_loader(split, augment="trivial", batch_size=37)
    order = loader.draws(4).order
    done = loader.draws(4).operations(split.images[order])
    images = split.images.clone()
    images[order] = done
    expected = collect(make_loader(Split(images, split.labels), batch_size=37).epoch(4))
    found = collect(loader.epoch(4))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert not torch.equal(found[0], collect(make_loader(split, batch_size=37).epoch(4))[0])


def test_other_epochs_and_seeds_are_augmented_and_mixed_otherwise():
    def of(seed, epoch):
        loader = make_loader(make_split(), seed=seed, augment="trivial", **MIXED["both"])
        draws = loader.draws(epoch)
        return draws.operations.kinds.flatten().tolist(), draws.mixtures

    assert of(1, 2) == of(1, 2)
    for other in ((1, 3), (2, 2), (2, 1)):
        assert of(1, 2)[0] != of(*other)[0]
        assert of(1, 2)[1] != of(*other)[1]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("centre", [(0.0, 0.0), (0.5, 0.5), (0.999, 0.2)])
def test_cutmix_cuts_within_the_image(share, centre):
    top, bottom, left, right = rectangle(Mixture(share, centre), 8, 6)
    assert 0 <= top <= bottom <= 8
    assert 0 <= left <= right <= 6
    images = torch.rand(3, 3, 8, 6)
    mixed, true_share = mix_images(images, images.flip(0), Mixture(share, centre))
    own = (mixed[0] == images[0]).all(0).double().mean()
    assert true_share == pytest.approx(float(own))
    if centre == (0.5, 0.5):
        top, bottom, left, right = rectangle(Mixture(share, centre), 256, 256)
        assert 1 - (bottom - top) * (right - left) / 256**2 == pytest.approx(share, abs=0.02)


def test_shares_are_betas_and_the_coin_is_fair():
    draw = draw_mixtures(20000, 0.4, 1.0, np.random.default_rng(1))
    mixed = np.array([m.share for m in draw if m.centre is None])
    cut = np.array([m.share for m in draw if m.centre is not None])
    assert abs(len(mixed) - 10000) < 5 * 5000**0.5
    for shares, alpha in ((mixed, 0.4), (cut, 1.0)):
        variance = 1 / (4 * (2 * alpha + 1))
        assert abs(shares.mean() - 0.5) < 5 * (variance / len(shares)) ** 0.5
        assert shares.var() == pytest.approx(variance, rel=0.05)

    def cuts(mixup):
        mixtures = draw_mixtures(100, mixup, 1.0, np.random.default_rng(1))
        return {number: mixture.share for number, mixture in enumerate(mixtures) if mixture.centre is not None}

    assert cuts(0.2).items() < cuts(0.0).items()  # mixup changes which batches are cut, and no share of these
    assert all(m.centre is None for m in draw_mixtures(100, 0.4, 0, np.random.default_rng(1)))
    assert all(m.centre is not None for m in draw_mixtures(100, 0, 0.4, np.random.default_rng(1)))


def test_an_image_mixed_with_its_own_class_is_sure():
    labels = torch.tensor([1, 2, 1])
    targets = mix_labels(labels, labels.flip(0), 0.3, 4, torch.float64)
    assert targets.tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixup": -0.1}, "mixup is -0.1"),
        ({"cutmix": float("nan")}, "cutmix is nan"),
        ({"cutmix": float("inf")}, "cutmix is inf"),
        ({"mixup": 1e-5}, "mixup is 1e-05: give 0, or"),
        ({"augment": "autoaugment"}, "augment is 'autoaugment'"),
        ({"flip": True}, "flip is True"),
    ],
)
def test_bad_settings_are_one_line(changes, message):
    with pytest.raises(InputError) as caught:
        Data(**changes)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_the_loader_names_what_is_missing():
    with pytest.raises(InputError, match="classes"):
        Loader(make_split(), Data(mixup=0.2), normalization=NORMALIZATION, batch_size=8, seed=0)
