"""Splits: checked when made, stratified exactly, the same for the same seed."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flatnext import config
from flatnext.data import Dataset, Normalization, Split, partition
from flatnext.data.splits import stratified
from flatnext.errors import InputError

NORMALIZATION = Normalization((0.5,) * 3, (0.2,) * 3)


def make_dataset(labels, name="some"):
    """Return a data set whose training images hold their own number."""
    count = len(labels)
    images = torch.arange(count)[:, None, None, None].to(torch.uint8).expand(count, 3, 4, 4).contiguous()
    train = Split(images, torch.tensor(labels))
    classes = tuple(f"class {label}" for label in range(max(labels) + 1))
    return Dataset(name=name, classes=classes, train=train, test=train, normalization=NORMALIZATION)


def numbers(split):
    return split.images[:, 0, 0, 0].tolist()


LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60)


@settings(deadline=None)
@given(labels=LABELS, seed=st.integers(0, 2**31), data=st.data())
def test_strata_have_their_share(labels, seed, data):
    count = data.draw(st.integers(0, len(labels)))
    labels = torch.tensor(labels)
    chosen, rest = stratified(labels, count, torch.Generator().manual_seed(seed))
    assert len(chosen) == count
    assert sorted(chosen.tolist() + rest.tolist()) == list(range(len(labels)))
    for label in labels.unique():
        share = Fraction(count * int((labels == label).sum()), len(labels))
        assert abs(int((labels[chosen] == label).sum()) - share) < 1


def test_largest_remainders_decide():
    labels = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)  # of 4: 2.0, 1.2, 0.8
    chosen, _ = stratified(labels, 4, torch.Generator())
    assert torch.bincount(labels[chosen]).tolist() == [2, 1, 1]


@pytest.mark.parametrize("part", ["validation", "calibration"])
def test_no_class_is_held_out_whole_as_long_as_others_have_an_image_to_give(part):
    dataset = make_dataset([0, 1, *[2] * 8])
    for count, left in ((5, [1, 1, 3]), (7, [1, 1, 1])):
        made = partition(dataset, config.Data(**{"validation": 0, part: count}))
        assert torch.bincount(made.train.labels).tolist() == left
        assert len(made.train) + count == 10
        assert made.notes == ()


def test_a_class_that_is_left_without_an_image_to_train_on_is_said():
    dataset = make_dataset([0, 1, *[2] * 8])
    for data, lost in (({"validation": 8}, "1 class: class 1"), ({"train_images": 2}, "2 classes: class 0, class 1")):
        made = partition(dataset, config.Data(**{"validation": 0, **data}))
        assert made.notes == (f"no image to train on is left of {lost}",)


@settings(max_examples=30, deadline=None)
@given(labels=st.lists(st.integers(0, 3), min_size=6, max_size=60), data=st.data())
def test_validation_does_not_depend_on_train_images(labels, data):
    dataset = make_dataset(labels)
    validation = data.draw(st.integers(1, len(labels) - 2))
    kept = data.draw(st.integers(1, len(labels) - validation))
    whole = partition(dataset, config.Data(validation=validation))
    part = partition(dataset, config.Data(validation=validation, train_images=kept))
    assert numbers(part.validation) == numbers(whole.validation)
    assert len(part.train) == kept
    assert set(numbers(part.train)) <= set(numbers(whole.train))
    assert sorted(numbers(whole.train) + numbers(whole.validation)) == list(range(len(labels)))


@pytest.mark.parametrize(("validation", "kept"), [(10, None), (None, 30), (0, 20)])
def test_images_for_calibration_are_of_no_other_part_and_move_none_of_the_validation_images(validation, kept):
    dataset = make_dataset([0, 1, 1] * 30)
    without = partition(dataset, config.Data(validation=validation))
    part = partition(dataset, config.Data(validation=validation, calibration=15, train_images=kept))
    whole = partition(dataset, config.Data(validation=validation, calibration=15))
    assert without.calibration is None
    assert torch.bincount(part.calibration.labels).tolist() == [5, 10]
    assert numbers(part.calibration) == numbers(whole.calibration)
    if validation != 0:
        assert numbers(part.validation) == numbers(without.validation)
    held_out = numbers(part.calibration) + (numbers(part.validation) if part.validation else [])
    assert sorted(numbers(whole.train) + held_out) == list(range(90))
    assert set(numbers(part.train)) <= set(numbers(whole.train))


def test_dividing_in_place_is_dividing(monkeypatch):
    monkeypatch.setattr("flatnext.data.splits.CHUNK", 7)
    settings = config.Data(calibration=10)
    whole = partition(make_dataset([0, 1] * 50), settings)
    dataset = make_dataset([0, 1] * 50)
    part = partition(dataset, settings, overwrite=True)
    for name in ("train", "validation", "calibration"):
        assert numbers(getattr(part, name)) == numbers(getattr(whole, name))
        assert torch.equal(getattr(part, name).labels, getattr(whole, name).labels)
    assert part.train.images.data_ptr() == dataset.train.images.data_ptr()


def test_the_split_seed_decides():
    dataset = make_dataset([0, 1] * 50)

    def held_out(seed):
        torch.manual_seed(seed + 17)  # the global generator has no say
        return numbers(partition(dataset, config.Data(validation=20, split_seed=seed)).validation)

    assert held_out(1) == held_out(1)
    assert held_out(1) != held_out(2)


def test_a_tenth_is_held_out_by_default():
    dataset = make_dataset([0, 1] * 17)
    assert len(partition(dataset, config.Data()).validation) == 3
    assert partition(make_dataset([0, 1, 1]), config.Data()).validation is None


def test_without_validation_all_images_train():
    dataset = make_dataset([0, 1, 1])
    result = partition(dataset, config.Data(validation=0))
    assert result.validation is None
    assert result.train is dataset.train
    assert result.test is dataset.test
    assert (result.name, result.classes, result.normalization) == ("some", dataset.classes, NORMALIZATION)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation": 10}, "validation is 10: some has 10 training images, so give at most 9"),
        ({"validation": 4, "calibration": 6}, "calibration is 6: some has 6 .* for validation, so give at most 5"),
        ({"validation": 4, "train_images": 7}, "train_images is 7: some has 6 beside 4 that are held out, .* 6"),
    ],
)
def test_asking_for_too_many_says_how_many_there_are(settings, message):
    with pytest.raises(InputError, match=message):
        partition(make_dataset([0, 1] * 5), config.Data(**settings))


def test_ill_made_splits_are_refused():
    images, labels = torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)
    for bad in ((images.float(), labels), (images[:, :2], labels), (images, labels[:3]), (images, labels.int())):
        with pytest.raises(InputError, match="give torch"):
            Split(*bad)
    good = Split(images, labels)
    fields = {"name": "x", "classes": ("a",), "train": good, "test": good, "normalization": NORMALIZATION}
    for change in (
        {"train": good.select(torch.tensor([], dtype=torch.int64))},
        {"test": Split(images, labels + 1)},
        {"test": Split(torch.zeros(4, 3, 3, 3, dtype=torch.uint8), labels)},
    ):
        with pytest.raises(InputError, match="x has"):
            Dataset(**{**fields, **change})
