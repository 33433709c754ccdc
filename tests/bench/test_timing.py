"""The order of turns, and what is computed from their seconds."""

from __future__ import annotations

import numpy as np
import pytest

from flatnext.bench.timing import group_sums, interleave, ratios, spread


def test_turns_are_interleaved_and_each_round_begins_one_further_on():
    order, said = [], []
    turns = {name: lambda name=name: order.append(name) or float(len(order)) for name in "abc"}
    samples = interleave(turns, 4, said.append)
    assert "".join(order) == "abcbcacababc"
    assert samples == {"a": [1, 6, 8, 10], "b": [2, 4, 9, 11], "c": [3, 5, 7, 12]}
    assert said == [f"round {number} of 4" for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9])
def test_spread_is_numpys(count):
    values = np.random.default_rng(count).random(count).tolist()
    low, middle, high = np.percentile(values, [25, 50, 75])
    assert spread(values) == pytest.approx({"median": middle, "low": low, "high": high, "n": count})


def test_groups_and_ratios():
    assert group_sums([1, 2, 3, 4, 5], 2) == [3, 7]
    assert ratios([2, 9, 8], [1, 3, 2]) == [2, 3, 4]
    assert ratios([8, 1, 1, 1], [1, 1, 1, 1], 4) == [11 / 4]
