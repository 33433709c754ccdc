"""The calibration of a model's answers from logits: halves by image, temperature, scores, and the promise they keep."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from flatnext.data import Dataset, Normalization, Partition, Split
from flatnext.errors import InputError
from flatnext.evaluation.conformal import after_training, conformal, first_half, in_halves

NORMALIZATION = Normalization((0.5,) * 3, (0.25,) * 3)


def split(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=generator)
    return Split(images, torch.randint(0, 5, (count,), generator=generator))


def logits_of(images, scale=3.0, seed=1):
    """Return logits of a model that is overconfident: they are `scale` times as large as they should be."""
    noise = torch.randn(len(images), 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return scale * (1.2 * noise + 1.5 * torch.nn.functional.one_hot(images.labels, 5))


def test_halves_are_by_image_and_do_not_move():
    images = split(500)
    half = first_half(images)
    assert 200 < int(half.sum()) < 300
    order = torch.randperm(500, generator=torch.Generator().manual_seed(3))
    assert torch.equal(first_half(images.select(order)), half[order])
    assert torch.equal(first_half(images.select(torch.arange(100))), half[:100])
    channels_last = Split(images.images.contiguous(memory_format=torch.channels_last), images.labels)
    assert torch.equal(first_half(channels_last), half)


def test_temperature_and_scores_come_from_different_halves():
    images = split(1000)
    logits = logits_of(images)
    made = in_halves(images, logits, "validation images")
    first, labels = first_half(images).numpy(), images.labels.numpy()

    def loss(temperature, half):
        return -log_softmax(logits.numpy()[half] / temperature, axis=1)[np.arange(half.sum()), labels[half]].mean()

    best = minimize_scalar(lambda t: loss(t, first), bounds=(0.5, 20), method="bounded", options={"xatol": 1e-9})
    assert made.temperature == pytest.approx(best.x, rel=1e-6)
    assert 2 < made.temperature < 6
    rest = ~first
    p = np.exp(log_softmax(logits.numpy()[rest] / made.temperature, axis=1))[np.arange(rest.sum()), labels[rest]]
    np.testing.assert_allclose(made.scores, np.sort(1 - p), atol=1.01e-6)
    assert made.images == rest.sum()
    assert made.source == f"{rest.sum()} of the 1,000 validation images; the others fit the temperature"


def test_the_sets_hold_the_class_as_often_as_promised_over_many_splits():
    shares = []
    for seed in range(25):
        images = split(700, seed)
        logits = logits_of(images, seed=100 + seed)
        made = in_halves(images.select(torch.arange(400)), logits[:400], "images")
        fresh = (logits[400:] / made.temperature).softmax(dim=1).numpy()
        sets = made.sets(fresh, 0.9)
        shares.append(sets[np.arange(300), images.labels[400:].numpy()].mean())
    # The mean of a split is between 0.9 and 0.9 + 1 / 200, its standard deviation about 0.027.
    assert 0.9 - 4 * 0.027 / 25**0.5 < np.mean(shares) < 0.905 + 4 * 0.027 / 25**0.5


@pytest.mark.parametrize("right", [True, False])
def test_images_that_do_not_fix_the_temperature_leave_it_at_one(right):
    images = split(100)
    logits = 5.0 * torch.nn.functional.one_hot(images.labels if right else (images.labels + 1) % 5, 5)
    assert in_halves(images, logits, "images").temperature == 1.0


def test_too_few_images_or_a_logit_that_is_not_finite_give_none():
    assert in_halves(split(1), torch.zeros(1, 5), "images") is None or first_half(split(1)).tolist() == [False]
    images = split(50)
    logits = logits_of(images)
    logits[7, 2] = torch.nan
    assert in_halves(images, logits, "images") is None
    with pytest.raises(InputError, match="not finite"):
        conformal(logits, images.labels, "images")


def partition(validation=None, calibration=None):
    data = Dataset(name="x", classes=tuple("abcde"), train=split(10), test=split(10), normalization=NORMALIZATION)
    return Partition(**{**vars(data), "validation": validation, "calibration": calibration})


def test_images_held_out_for_calibration_give_all_scores():
    validation, calibration = split(200, seed=5), split(90, seed=6)
    parts = partition(validation, calibration)
    logits = {"validation": logits_of(validation), "calibration": logits_of(calibration, seed=8)}
    made = after_training(parts, **logits)
    assert made.images == 90
    assert made.source == "90 images held out for calibration; the validation images fit the temperature"
    again = conformal(logits["calibration"], calibration.labels, made.source, (logits["validation"], validation.labels))
    assert made == again
    logits["validation"][0, 0] = torch.inf
    assert after_training(parts, **logits) is None


def test_either_held_out_part_alone_is_halved():
    images = split(200)
    logits = logits_of(images)
    of_validation = after_training(partition(validation=images), validation=logits, calibration=None)
    of_calibration = after_training(partition(calibration=images), validation=None, calibration=logits)
    assert of_validation.scores == of_calibration.scores
    assert "the 200 validation images" in of_validation.source
    assert "the 200 images held out for calibration" in of_calibration.source
    assert after_training(partition(), validation=None, calibration=None) is None
