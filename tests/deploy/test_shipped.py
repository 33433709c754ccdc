"""The weights that ship are what their index and cards say."""

from __future__ import annotations

import pytest
import torch
from packed import figures

from flatnext import data, models
from flatnext.evaluation import calibration, load_predictor, score
from flatnext.models import catalog

SHIPPED = [entry for entries in models.shipped().values() for entry in entries]


CIFAR10 = [entry for entry in SHIPPED if entry.short.endswith("-cifar10")]


TOLERANCE = 3  # images of the first 1,000 that another machine's rounding may classify otherwise


def hits(entry, split):
    logits = load_predictor(entry.name, device="cpu", overrides={"precision": "fp32"})(split.images)
    return logits, score(logits, split.labels)


@pytest.mark.parametrize("entry", CIFAR10, ids=lambda entry: entry.name)
def test_what_ships_recognises_images(entry, cifar10_dir):
    test = data.load("cifar10", cifar10_dir, download=False).test.select(torch.arange(100))
    _, scores = hits(entry, test)
    assert scores.accuracy > entry.accuracy - 0.1


@pytest.mark.slow
@pytest.mark.parametrize("entry", CIFAR10, ids=lambda entry: entry.name)
def test_what_ships_finds_its_accuracy_on_the_first_images(entry, cifar10_dir):
    test = data.load("cifar10", cifar10_dir, download=False).test.select(torch.arange(entry.first_count))
    _, scores = hits(entry, test)
    assert abs(round(scores.accuracy * scores.count) - entry.first_correct) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("entry", CIFAR10, ids=lambda entry: entry.name)
def test_what_ships_finds_its_cards_figures(entry, cifar10_dir):
    card = figures((catalog.WEIGHTS / f"{entry.name}.md").read_text())
    test = data.load("cifar10", cifar10_dir, download=False).test
    logits, scores = hits(entry, test)
    found = calibration(logits, test.labels)
    assert card["accuracy"] == entry.accuracy
    assert abs(scores.accuracy - entry.accuracy) * entry.count <= 5
    assert (found.nll, found.brier) == pytest.approx((card["nll"], card["brier_score"]), rel=1e-3)
    assert found.ece == pytest.approx(card["ece"], abs=2e-3)


def test_all_that_ships_is_small_and_has_a_card():
    files = {path.name for path in catalog.WEIGHTS.glob("*")} - {"index.json"}
    assert files == {f"{entry.name}{ending}" for entry in SHIPPED for ending in (".safetensors", ".md")}
    for entry in SHIPPED:
        assert models.find_weights(entry.name).stat().st_size == entry.bytes <= 10_000_000
