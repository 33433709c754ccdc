"""The loader beside a slow oracle that treats one image at a time, and its promises."""

import hashlib
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loaders import NORMALIZATION, augment_slowly, collect, make_loader, make_split

from flatnext.data import Loader, Split
from flatnext.data.images import resize_images
from flatnext.errors import InputError
from flatnext.seeds import mix


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_loader_equals_the_slow_oracle(dtype, channels_last):
    split = make_split()
    loader = make_loader(split, dtype=dtype, channels_last=channels_last)
    draws = loader.draws(1)
    at = 0
    for images, labels in loader.epoch(1):
        assert images.dtype == dtype
        assert images.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        for image, label in zip(images, labels.tolist(), strict=True):
            assert label == draws.order[at]
            expected = augment_slowly(
                split.images[label].numpy(), 2, draws.offsets[at], draws.mirrored[at], draws.centres[at], 4
            )
            exact = torch.from_numpy(expected)
            tolerance = {torch.float32: 1e-6, torch.float64: 1e-12, torch.bfloat16: 2**-8}[dtype]
            torch.testing.assert_close(image.double(), exact, rtol=tolerance, atol=tolerance)
            at += 1
    assert at == len(split)


def test_early_epochs_are_augmented_as_small_images_are():
    split = make_split(37, 8, 8)
    growing = make_loader(split, early_sizes=(4, 6), crop_padding=2, cutout=4)
    assert [growing.image_size(epoch) for epoch in range(4)] == [4, 6, 8, 8]
    for epoch, (size, padding, square) in enumerate([(4, 1, 2), (6, 2, 3), (8, 2, 4)]):
        small = Split(resize_images(split.images, size), split.labels)
        alone = collect(make_loader(small, crop_padding=padding, cutout=square).epoch(epoch))
        found = collect(growing.epoch(epoch))
        assert torch.equal(found[1], alone[1])
        assert torch.equal(found[0], alone[0])


def test_an_augmentation_stays_on_however_small_the_images():
    split = make_split(37, 8, 8)
    loader = make_loader(split, early_sizes=(1,), crop_padding=1, cutout=1)
    assert torch.equal(collect(loader.epoch(0))[0], torch.zeros(37, 3, 1, 1))  # cut out
    assert make_loader(split, early_sizes=(1,), crop_padding=1).draws(0).offsets.max() == 2
    assert make_loader(split, early_sizes=(1,), crop_padding=0).draws(0).offsets.max() == 0


def test_alternating_flips_show_each_image_both_ways_in_turn():
    split = make_split(200)
    loader = make_loader(split, crop_padding=0, cutout=0, flip="alternating", batch_size=64)
    plain = NORMALIZATION(split.images)
    shown = []
    for epoch in range(4):
        images, labels = collect(loader.epoch(epoch))
        images = images[labels.argsort()]
        mirrored = (images == plain.flip(3)).all(dim=(1, 2, 3))
        assert torch.equal(images, torch.where(mirrored[:, None, None, None], plain.flip(3), plain))
        shown.append(mirrored)
    assert torch.equal(shown[0], ~shown[1])
    assert torch.equal(shown[0], shown[2])
    assert torch.equal(shown[1], shown[3])
    assert abs(int(shown[0].sum()) - 100) < 5 * 50**0.5
    other = make_loader(split, flip="alternating", seed=6)
    order = loader.draws(0).order.argsort(), other.draws(0).order.argsort()
    assert not torch.equal(other.draws(0).mirrored[order[1]], loader.draws(0).mirrored[order[0]])


@pytest.mark.parametrize("start", [0, 2, 5])
def test_a_growing_epoch_can_be_entered_at_any_step(start):
    def loader():
        return make_loader(make_split(37, 8, 8), early_sizes=(4, 4, 6))

    whole = loader()
    full = [list(whole.epoch(epoch))[start:] for epoch in range(4)]
    for epoch in (2, 3, 1):
        for (images, _), (expected, _) in zip(loader().epoch(epoch, start), full[epoch], strict=True):
            assert torch.equal(images, expected)


def test_draws_use_their_whole_range_evenly():
    draws = make_loader(make_split(7000, 4, 6)).draws(0)
    offsets, mirrored, centres = draws.offsets, draws.mirrored, draws.centres
    assert torch.equal(draws.order.sort().values, torch.arange(7000))
    for draw, kinds in [(offsets[:, 0], 5), (offsets[:, 1], 5), (centres[:, 0], 4), (centres[:, 1], 6), (mirrored, 2)]:
        counts = torch.bincount(draw.long())
        assert len(counts) == kinds
        # Five standard deviations of a binomial count.
        assert (counts - 7000 / kinds).abs().max() < 5 * (7000 / kinds * (1 - 1 / kinds)) ** 0.5


def test_every_image_comes_once_an_epoch():
    loader = make_loader(make_split())
    assert len(loader) == 5
    assert [len(labels) for _, labels in loader.epoch(0)] == [8, 8, 8, 8, 5]
    _, labels = collect(loader.epoch(3))
    assert sorted(labels.tolist()) == list(range(37))


def test_drop_last_drops_the_small_batch_alone():
    loader = make_loader(make_split(), drop_last=True)
    assert len(loader) == 4
    images, labels = collect(loader.epoch(0))
    assert len(images) == 32
    assert torch.equal(labels, collect(make_loader(make_split()).epoch(0))[1][:32])


def test_same_seed_and_epoch_same_bits_and_others_differ():
    def batch(seed, epoch):
        return next(make_loader(make_split(), seed=seed).epoch(epoch))

    first, again = batch(1, 2), batch(1, 2)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    # (2, 1) and (1, 2) have the same sum.
    others = [batch(seed, epoch) for seed, epoch in ((2, 1), (1, 3), (2, 2))]
    assert not any(torch.equal(first[1], other[1]) for other in others)


def test_draws_do_not_depend_on_or_touch_the_global_generator():
    torch.manual_seed(1)
    expected = torch.rand(3)
    first = collect(make_loader(make_split()).epoch(0))
    torch.manual_seed(1)
    second = collect(make_loader(make_split()).epoch(0))
    assert torch.equal(first[0], second[0])
    assert torch.equal(torch.rand(3), expected)


@settings(max_examples=25, deadline=None)
@given(start=st.integers(0, 5), epoch=st.integers(0, 10**6))
def test_an_epoch_can_be_entered_at_any_step(start, epoch):
    loader = make_loader(make_split())
    full = list(islice(loader.epoch(epoch), start, None))
    resumed = list(make_loader(make_split()).epoch(epoch, start))
    assert len(resumed) == len(full) == 5 - start
    for (images, labels), (expected_images, expected_labels) in zip(resumed, full, strict=True):
        assert torch.equal(images, expected_images)
        assert torch.equal(labels, expected_labels)


def test_one_augmentation_changes_neither_order_nor_the_others():
    split = make_split()
    plain = make_loader(split, crop_padding=0, flip="none", cutout=0)
    before = plain.draws(0)
    after = make_loader(split, crop_padding=4, cutout=3).draws(0)
    assert torch.equal(before.order, after.order)
    assert torch.equal(before.mirrored, after.mirrored)
    images, labels = collect(plain.epoch(0))
    assert torch.equal(images, NORMALIZATION(split.images[labels]))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**70), st.integers(0, 2**40)), min_size=2, max_size=30, unique=True))
def test_seeds_of_epochs_do_not_collide(pairs):
    assert len({mix(seed, epoch) for seed, epoch in pairs}) == len(pairs)


def test_long_seeds_do_not_run_into_the_epoch():
    assert mix(2**32, 0) != mix(0, 1)
    assert mix(0, 0) != mix(0, 1)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"crop_padding": -1}, "crop_padding"),
        ({"cutout": -2}, "cutout"),
        ({"flip": "twice"}, "flip is 'twice'"),
        ({"batch_size": 38, "drop_last": True}, "batch_size"),
    ],
)
def test_bad_settings_are_named(changes, word):
    with pytest.raises(InputError, match=word):
        make_loader(make_split(), **changes)


@pytest.mark.parametrize(("width", "size", "word"), [(7, 4, "square"), (9, 10, "early_sizes has 10")])
def test_early_sizes_that_cannot_be_made_are_refused(width, size, word):
    with pytest.raises(InputError, match=word):
        make_loader(make_split(9, 9, width), early_sizes=(size,))


@pytest.mark.parametrize(("epoch", "start"), [(-1, 0), (0, -1), (0, 6)])
def test_bad_steps_are_refused_at_once(epoch, start):
    with pytest.raises(InputError, match="start"):
        make_loader(make_split()).epoch(epoch, start)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_sees_what_a_cpu_sees():
    for (images, labels), (expected, numbers) in zip(
        make_loader(make_split(), device="cuda").epoch(1), make_loader(make_split()).epoch(1), strict=True
    ):
        assert images.is_cuda
        assert labels.is_cuda
        assert torch.equal(labels.cpu(), numbers)
        torch.testing.assert_close(images.cpu(), expected, rtol=0, atol=1e-6)


def test_the_numbers_of_an_epoch_are_those_of_earlier_versions():
    """Else a run that is resumed, verified or made again in the next version has other images."""
    mixing = {"mixup": 0.4, "cutmix": 1.0, "classes": 8, "sampler": "balanced"}
    draws = make_loader(make_split(8, 8, 8), augment="trivial", flip="alternating", **mixing).draws(1)
    parts = {name: getattr(draws, name) for name in ("order", "offsets", "mirrored", "centres")}
    parts["kinds"] = draws.operations.kinds
    assert {name: hashlib.sha256(part.numpy().tobytes()).hexdigest()[:8] for name, part in parts.items()} == {
        "order": "a148ee01",
        "offsets": "bbbe14df",
        "mirrored": "706014c5",
        "centres": "d20e9bef",
        "kinds": "0eba10db",
    }
    assert draws.mixtures[0].share == pytest.approx(0.07229324697312343)


def test_a_normalization_of_other_channels_is_refused():
    split = Split(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(InputError, match=r"for 3 channels and the images have 1: give normalization.for_channels\(1\)"):
        Loader(split, normalization=NORMALIZATION, batch_size=2, seed=0)
