import json
import math

import numpy as np
import pytest
from calibration_oracle import softmax

from flatnext.errors import InputError
from flatnext.runs.conformal import MOST_SCORES, Conformal
from flatnext.schema import dump, parse


def conformal(scores, temperature=1.0):
    return Conformal.of(scores, temperature=temperature, source="a test")


def covered(images, fresh, coverage, splits, seed):
    """Return the share of fresh images whose class is in its set, of each random split; the model is overconfident."""
    generator = np.random.default_rng(seed)
    shares = []
    for _ in range(splits):
        labels = generator.integers(0, 5, images + fresh)
        logits = generator.normal(0, 2, (len(labels), 5))
        logits[np.arange(len(labels)), labels] += 1.5
        probabilities = softmax(logits)
        of_label = probabilities[np.arange(len(labels)), labels]
        sets = conformal(1 - of_label[:images]).sets(probabilities[images:], coverage)
        shares.append(sets[np.arange(fresh), labels[images:]].mean())
    return np.array(shares)


@pytest.mark.parametrize(
    ("images", "coverage"), [(19, 0.95), (40, 0.9), (100, 0.95), (37, 0.5), (9, 0.9), (200, 0.99), (2500, 0.95)]
)
def test_the_promise_is_kept_on_average_over_random_splits_and_not_by_much(images, coverage):
    splits, fresh = (700 if images <= 200 else 150), 200
    shares = covered(images, fresh, coverage, splits, seed=images)
    # The coverage of a split is Beta(rank, images + 1 - rank), and its mean rank / (images + 1) (Vovk 2012).
    rank = math.ceil(round((images + 1) * coverage, 9))
    expected = rank / (images + 1)
    beta = expected * (1 - expected) / (images + 2)
    error = math.sqrt((beta + expected * (1 - expected) / fresh) / splits)
    slack = 1 / MOST_SCORES if images > MOST_SCORES else 0
    assert coverage <= expected < coverage + 1 / images + 1e-9
    assert expected - 4 * error < shares.mean() < expected + slack + 4 * error
    spread = math.sqrt(beta + expected * (1 - expected) / fresh)
    assert shares.std() == pytest.approx(spread, rel=0.25)


def test_the_threshold_is_the_score_of_the_stated_rank():
    scores = [0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.4, 0.6, 0.8]  # nine: rank r of ten is r tenths
    for tenths in range(1, 10):
        assert conformal(scores).threshold(tenths / 10) == tenths / 10
    assert conformal(scores).threshold(0.61) == 0.7


@pytest.mark.parametrize("images", [1000, 1001, 1999, 2500, 10_007])
def test_thinning_only_makes_sets_larger(images):
    scores = np.random.default_rng(0).beta(0.3, 2, images)
    kept = conformal(scores)
    assert (len(kept.scores), kept.images) == (MOST_SCORES, images)
    exact = np.sort(scores)
    for coverage in (0.001, 0.1, 0.5, 0.9, 0.95, 0.9501, 0.99, 0.999):
        rank = math.ceil(round((images + 1) * coverage, 9))
        most = exact[min(rank + images // MOST_SCORES + 1, images) - 1] + 1e-6
        assert exact[rank - 1] <= kept.threshold(coverage) <= most
    assert kept.scores[-1] >= exact[-1]


def test_rounding_is_upward_and_within_the_range():
    assert conformal([1e-12, 0.1234561, 1.0]).scores == (1e-6, 0.123457, 1.0)


def test_sets_of_one_image_each_way():
    sets = conformal([0.5] * 19).sets(np.array([[0.5, 0.5], [0.9, 0.1], [0.4, 0.3]]), 0.95)
    assert sets.tolist() == [[True, True], [True, False], [False, False]]  # the last: none of these


@pytest.mark.parametrize(("coverage", "fewest"), [(0.5, 1), (0.9, 9), (0.95, 19), (0.99, 99), (0.999, 999), (0.7, 3)])
def test_the_fewest_images(coverage, fewest):
    assert Conformal.fewest_images(coverage) == fewest
    conformal([0.5] * fewest).threshold(coverage)
    if fewest > 1:
        with pytest.raises(
            InputError, match=rf"needs {fewest} calibration images, and there are {fewest - 1} \(a test"
        ):
            conformal([0.5] * (fewest - 1)).threshold(coverage)


def test_the_largest_coverage_in_the_message_is_possible():
    few = conformal([0.5] * 12)
    with pytest.raises(InputError, match=r"give at most 0\.923, or calibrate"):
        few.threshold(0.95)
    few.threshold(0.923)


@pytest.mark.parametrize("coverage", [0.0, 1.0, -1, 1.5, math.nan])
def test_a_coverage_that_no_set_has_is_refused(coverage):
    with pytest.raises(InputError, match="above 0 and below 1"):
        conformal([0.5]).threshold(coverage)


def test_it_comes_back_from_json():
    made = conformal(np.random.default_rng(1).random(3000), temperature=1.37)
    text = json.dumps(dump(made))
    assert parse(Conformal, json.loads(text)) == made
    assert len(text) < 14_000


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.0},
        {"temperature": math.inf},
        {"scores": (0.5, 0.4)},
        {"scores": (0.5, 1.5)},
        {"scores": (-0.5, 0.5)},
        {"scores": (), "images": 0},
        {"images": 3},
    ],
)
def test_damaged_values_are_refused(change):
    with pytest.raises(InputError):
        Conformal(**{"temperature": 1.0, "scores": (0.1, 0.2), "images": 2, "source": "a test"} | change)


def test_no_scores_are_refused():
    with pytest.raises(InputError, match="no images to calibrate"):
        conformal([])
