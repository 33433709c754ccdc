"""Calibration metrics against NumPy, and against cases that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from calibration_oracle import adaptive_oracle, oracle, softmax
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from flatnext.errors import InputError
from flatnext.evaluation import calibration, calibration_with_scaling, fit_temperature
from flatnext.evaluation.calibration import adaptive_calibration_error, expected_calibration_error, reliability
from flatnext.schema import dump


def drawn(seed, count, classes=4, scale=2.0):
    """Return logits, and labels drawn from their softmax: a predictor that is calibrated."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, classes)) * scale
    labels = (softmax(logits).cumsum(axis=1) < random.random((count, 1))).sum(axis=1)
    return torch.from_numpy(logits), torch.from_numpy(labels)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(2, 12), st.integers(1, 20), st.floats(0.1, 8))
def test_metrics_are_those_of_numpy(seed, count, classes, bins, scale):
    random = np.random.default_rng(seed)
    logits = (random.normal(size=(count, classes)) * scale).astype(np.float32)
    labels = random.integers(classes, size=count)
    found = calibration(torch.from_numpy(logits), torch.from_numpy(labels), bins)
    assert (found.nll, found.brier, found.ece) == pytest.approx(oracle(logits, labels, bins), rel=1e-9, abs=1e-12)
    assert (found.bins, found.count) == (bins, count)
    assert found.adaptive_ece == pytest.approx(adaptive_oracle(logits, labels, bins), rel=1e-9, abs=1e-12)
    assert found.accuracy == (logits.argmax(axis=1) == labels).mean()


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
    diagram = reliability(logits, torch.tensor([0, 0]), bins=2)
    assert diagram.counts == (1, 1)
    assert diagram.accuracy == (1.0, 1.0)
    assert diagram.edges == (0.0, 0.5, 1.0)
    assert expected_calibration_error(diagram) == pytest.approx(0.25)


def test_default_is_15_bins_and_goes_to_json():
    found = dump(calibration(torch.zeros(3, 10), torch.zeros(3, dtype=torch.int64)))
    filled = [None] * 15
    filled[1] = pytest.approx(0.1)  # of (1 / 15, 2 / 15]
    assert found == {
        **{"count": 3, "accuracy": 1.0, "nll": pytest.approx(np.log(10)), "brier": pytest.approx(0.9)},
        **{"ece": 0.9, "adaptive_ece": 0.9, "bins": 15},
        "reliability": {
            "edges": pytest.approx(np.linspace(0, 1, 16)),
            "counts": [0, 3, *[0] * 13],
            "confidence": filled,
            "accuracy": [None, 1.0, *[None] * 13],
        },
        "scaled": None,
    }


def test_reliability_by_hand():
    logits = torch.tensor([[0.6, 0.4], [0.4, 0.6], [0.9, 0.1], [0.2, 0.8]]).log()
    diagram = dump(reliability(logits, torch.tensor([0, 0, 0, 1]), bins=4))
    assert diagram == {
        "edges": [0.0, 0.25, 0.5, 0.75, 1.0],
        "counts": [0, 0, 2, 2],
        "confidence": [None, None, pytest.approx(0.6), pytest.approx(0.85)],
        "accuracy": [None, None, 0.5, 1.0],
    }


def test_adaptive_error_by_hand():
    # Two bins of two images: confidence 0.6 and 0.7, one right; 0.8 and 0.9, both right. Equal width has them in one.
    logits = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.7, 0.3]], dtype=torch.float64).log()
    labels = torch.tensor([0, 0, 0, 1])
    assert adaptive_calibration_error(logits, labels, 2) == pytest.approx((0.15 + 0.15) / 2)
    assert adaptive_calibration_error(logits, labels, 1) == pytest.approx(0.0)  # 3 of 4 at 0.75
    assert adaptive_calibration_error(logits, labels, 99) == pytest.approx((0.1 + 0.4 + 0.2 + 0.7) / 4)  # one in each
    assert calibration(logits, labels, 2).ece == pytest.approx(0.0)


def test_images_as_sure_as_each_other_share_a_bin_in_any_order():
    logits = torch.tensor([[0.6, 0.4]] * 5 + [[0.9, 0.1]] * 3, dtype=torch.float64).log()
    labels = torch.tensor([0, 0, 1, 1, 1, 0, 0, 1])
    expected = (5 * 0.2 + 3 * abs(2 / 3 - 0.9)) / 8
    for seed in range(5):
        order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
        assert adaptive_calibration_error(logits[order], labels[order], 4) == pytest.approx(expected)
    constant = calibration(torch.zeros(10, 4), torch.arange(10) % 4)
    assert (constant.adaptive_ece, constant.ece) == pytest.approx([abs(0.25 - constant.accuracy)] * 2)


def test_the_errors_of_a_calibrated_predictor_vanish():
    for count, most in ((1000, 0.08), (100_000, 0.008)):  # about twice what binomial noise gives in 15 bins
        found = calibration(*drawn(0, count))
        assert found.ece < most
        assert found.adaptive_ece < most
    assert found.ece < 0.2 * calibration(*drawn(0, 1000)).ece


# Temperature


@pytest.mark.parametrize("factor", [0.2, 1.0, 3.0])
def test_the_temperature_undoes_a_factor(factor):
    logits, labels = drawn(1, 20_000)
    plain = fit_temperature(logits, labels)
    assert plain == pytest.approx(1, abs=0.03)  # calibrated
    assert fit_temperature(logits * factor, labels) == pytest.approx(plain * factor, rel=1e-9)
    assert fit_temperature(logits + torch.arange(20_000)[:, None], labels) == pytest.approx(plain, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(30, 200), st.integers(2, 6), st.floats(0.3, 6))
def test_the_temperature_is_that_of_scipy(seed, count, classes, scale):
    logits, labels = drawn(seed, count, classes, scale)
    labels[:2] = logits[:2].argmin(dim=1)  # so that there is a best one

    def loss(logarithm):
        scaled = softmax(logits.numpy() * np.exp(logarithm))
        return -np.log(scaled[np.arange(count), labels.numpy()]).mean()

    found = optimize.minimize_scalar(loss, bounds=(np.log(0.01), np.log(100)), method="bounded")
    temperature = fit_temperature(logits, labels)
    assert -np.log(temperature) == pytest.approx(found.x, abs=1e-3)
    assert loss(-np.log(temperature)) <= found.fun + 1e-12


def test_the_temperature_by_hand():
    # 3 of 4 right at a margin of 2: the best probability is 3/4, so 2 / T = log 3.
    logits, labels = torch.tensor([[2.0, 0.0]]).repeat(4, 1), torch.tensor([0, 0, 1, 0])
    assert fit_temperature(logits, labels) == pytest.approx(2 / np.log(3), rel=1e-14)


def test_temperatures_without_a_best_one():
    logits = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    assert fit_temperature(logits, torch.tensor([0, 1])) == 0.01  # all right
    assert fit_temperature(logits, torch.tensor([1, 0])) == 100.0  # all wrong
    assert fit_temperature(logits * 1e4, torch.tensor([0, 0])) == 100.0  # one wrong, but far beyond
    assert fit_temperature(torch.full((3, 2), 7.0), torch.tensor([1, 0, 0])) == 1.0


# The report


def test_the_report_has_the_test_images_as_they_are_and_scaled():
    logits, labels = drawn(2, 500)
    validation_logits, validation_labels = drawn(3, 300)
    report = calibration_with_scaling(logits * 3, labels, validation_logits * 3, validation_labels)
    assert replace(report, scaled=None) == calibration(logits * 3, labels)
    assert report.accuracy == float((logits.argmax(dim=1) == labels).double().mean())
    temperature = fit_temperature(validation_logits * 3, validation_labels)
    expected = dump(calibration(logits * 3 / temperature, labels))
    assert dump(report.scaled) == {
        "temperature": temperature,
        "validation_count": 300,
        **{key: expected[key] for key in ("nll", "brier", "ece", "adaptive_ece", "reliability")},
    }
    assert report.scaled.nll < report.nll
    assert report.scaled.ece < report.ece


def test_the_report_without_validation_images():
    logits, labels = drawn(2, 50)
    assert calibration_with_scaling(logits, labels) == calibration(logits, labels)
    with pytest.raises(InputError, match="give both or neither"):
        calibration_with_scaling(logits, labels, logits)


@pytest.mark.parametrize(
    ("logits", "labels", "bins", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 15, "N at least 1"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), 15, r"labels \(3,\)"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), 15, r"logits are \(3,\)"),
        (torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), 0, "bins is 0"),
        (torch.zeros(3, 2), torch.full((3,), 2), 15, "labels are outside 0 to 1"),
        (torch.zeros(3, 2), torch.full((3,), -100), 15, "labels are outside 0 to 1"),
        (torch.full((3, 2), torch.nan), torch.zeros(3, dtype=torch.int64), 15, "not finite"),
    ],
)
def test_bad_input(logits, labels, bins, message):
    with pytest.raises(InputError, match=message):
        calibration(logits, labels, bins)
