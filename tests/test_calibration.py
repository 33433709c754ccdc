"""Calibration metrics against NumPy, and against cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flatnext.errors import InputError
from flatnext.evaluation import calibration
from flatnext.evaluation.calibration import equal_width, expected_calibration_error


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def oracle(logits, labels, bins):
    """Return NLL, Brier score and ECE, image by image and bin by bin, in NumPy's double precision."""
    probabilities = softmax(np.asarray(logits, np.float64))
    rows = np.arange(len(labels))
    wanted = np.eye(probabilities.shape[1])[labels]
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    ece = 0.0
    for i in range(bins):
        inside = (confidence > i / bins) & (confidence <= (i + 1) / bins)
        if inside.any():
            ece += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    return -np.log(probabilities[rows, labels]).mean(), ((probabilities - wanted) ** 2).sum(axis=1).mean(), ece


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(2, 12), st.integers(1, 20), st.floats(0.1, 8))
def test_metrics_are_those_of_numpy(seed, count, classes, bins, scale):
    random = np.random.default_rng(seed)
    logits = (random.normal(size=(count, classes)) * scale).astype(np.float32)
    labels = random.integers(classes, size=count)
    found = calibration(torch.from_numpy(logits), torch.from_numpy(labels), bins)
    assert (found.nll, found.brier, found.ece) == pytest.approx(oracle(logits, labels, bins), rel=1e-9, abs=1e-12)
    assert (found.bins, found.count) == (bins, count)


def test_by_hand():
    # 3 of 4 right at confidence 0.75 is calibrated; the same confidence and none right is off by it.
    logits = torch.tensor([[3.0, 1.0]]).log().repeat(4, 1)
    right = calibration(logits, torch.tensor([0, 0, 0, 1]))
    assert right.ece == pytest.approx(0, abs=1e-7)
    assert right.nll == pytest.approx(-(3 * np.log(0.75) + np.log(0.25)) / 4, rel=1e-7)
    assert right.brier == pytest.approx((3 * 2 * 0.25**2 + 2 * 0.75**2) / 4, rel=1e-6)
    assert calibration(logits, torch.ones(4, dtype=torch.int64)).ece == pytest.approx(0.75, rel=1e-6)


def test_bins_are_closed_on_the_right():
    logits = torch.tensor([[0.0, 0.0], [50.0, 0.0]])  # confidence 0.5, the upper edge of the first of two bins, and 1
    bins = equal_width(logits, torch.tensor([0, 0]), bins=2)
    assert bins.counts.tolist() == [1, 1]
    assert bins.correct.tolist() == [1.0, 1.0]
    assert bins.edges.tolist() == [0.0, 0.5, 1.0]
    assert expected_calibration_error(bins) == pytest.approx(0.25)


def test_default_is_15_bins_and_goes_to_json():
    found = calibration(torch.zeros(3, 10), torch.zeros(3, dtype=torch.int64)).to_json()
    assert found == {"nll": pytest.approx(np.log(10)), "brier": pytest.approx(0.9), "ece": 0.9, "bins": 15, "count": 3}


@pytest.mark.parametrize(
    ("logits", "labels", "bins", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 15, "N at least 1"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), 15, r"labels \(3,\)"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), 15, r"logits are \(3,\)"),
        (torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), 0, "bins is 0"),
    ],
)
def test_bad_input(logits, labels, bins, message):
    with pytest.raises(InputError, match=message):
        calibration(logits, labels, bins)
