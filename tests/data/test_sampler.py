"""Balanced sampling: every class as often, within a class no image more than once more than another."""

import pytest
import torch
from loaders import collect, make_loader

from flatnext.data import Split
from flatnext.data.draws import draw_balanced


def draw(labels, seed=0):
    return draw_balanced(labels, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("counts", [(60, 30, 10), (1, 1, 98), (7, 7, 7), (50, 0, 3), (5,)])
def test_counts(counts):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(9))]
    order = draw(labels)
    assert len(order) == len(labels)
    shown = torch.bincount(labels[order], minlength=len(counts))
    assert shown[torch.tensor(counts) == 0].sum() == 0
    of_present = shown[torch.tensor(counts) > 0]
    assert of_present.max() - of_present.min() <= 1
    times = torch.bincount(order, minlength=len(labels))
    for label in labels.unique():
        assert times[labels == label].max() - times[labels == label].min() <= 1


def test_all_images_of_a_large_class_come_in_time():
    labels = torch.tensor([0] * 90 + [1] * 10)
    seen = {place for seed in range(20) for place in draw(labels, seed).tolist()}
    assert seen == set(range(100))
    orders = [draw(labels, seed).tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    firsts = [draw(labels, seed)[0] < 90 for seed in range(200)]
    assert 60 <= sum(map(bool, firsts)) <= 140  # mixed: the first image is of either class


def uneven():
    images = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Split(images, torch.tensor([0] * 30 + [1] * 7 + [2] * 3))


def test_an_epoch_can_be_entered_at_any_step():
    whole = list(make_loader(uneven(), sampler="balanced").epoch(3))
    for start in range(1, 5):
        rest = list(make_loader(uneven(), sampler="balanced").epoch(3, start))
        assert len(rest) == len(whole) - start
        for (images, labels), (expected, numbers) in zip(rest, whole[start:], strict=True):
            assert torch.equal(images, expected)
            assert torch.equal(labels, numbers)


def test_epochs_differ_and_processes_share_them():
    loader = make_loader(uneven(), sampler="balanced")
    labels = [collect(loader.epoch(epoch))[1] for epoch in range(2)]
    assert sorted(torch.bincount(labels[0]).tolist()) == [13, 13, 14]
    assert not torch.equal(*labels)
    parts = [collect(make_loader(uneven(), sampler="balanced", rank=rank, ranks=2).epoch(0))[0] for rank in range(2)]
    whole = collect(loader.epoch(0))[0]
    assert sum(map(len, parts)) == len(whole)
    found = torch.cat(parts).flatten(1).sum(1).sort().values
    torch.testing.assert_close(found, whole.flatten(1).sum(1).sort().values)


def test_the_augmentation_is_that_of_shuffled_images():
    shuffled, balanced = (make_loader(uneven(), sampler=sampler).draws(0) for sampler in ("shuffle", "balanced"))
    for name in ("offsets", "mirrored", "centres"):
        assert torch.equal(getattr(shuffled, name), getattr(balanced, name))
