"""Scores as they are written: the confusion matrix of a few classes in full, of many without its zeros."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flatnext.runs.scores import Confusion, Scores
from flatnext.schema import ParseError, dump, parse


def scores(classes: int) -> Scores:
    rows = [[0] * classes for _ in range(classes)]
    for label in range(classes):
        rows[label][label] = 48
        rows[label][(7 * label + 1) % classes] += 2
    return Scores(loss=None, accuracy=0.96, count=50 * classes, not_finite=3, confusion=Confusion.of(rows))


@pytest.mark.parametrize("classes", [1, 2, 100, 101, 300])
def test_they_are_read_as_they_were(classes: int) -> None:
    assert parse(Scores, json.loads(json.dumps(dump(scores(classes))))) == scores(classes)


def test_of_many_classes_the_zeros_are_left_out() -> None:
    assert len(json.dumps(dump(scores(2000)), indent=1)) < 200_000  # in full they are 36 MB
    assert dump(scores(101).confusion)[100] == {"95": 2, "100": 48}
    assert dump(scores(100).confusion)[99][99] == 48


@pytest.mark.parametrize("classes", [3, 300])
def test_the_full_form_is_read_whatever_the_number_of_classes(classes: int) -> None:
    full = [list(row) for row in scores(classes).confusion or ()]
    assert parse(Confusion, full) == scores(classes).confusion


@pytest.mark.parametrize(
    "content", [3, "ab", [3], [{"2": 1}, {}], [{"-1": 1}], [{"a": 1}], [{"0": 1.5}], [["1"]], [[True]], [{"0": -1}]]
)
def test_what_is_no_matrix_is_one_line(content: Any) -> None:
    with pytest.raises(ParseError, match="confusion") as caught:
        parse(Scores, {"loss": 1.0, "accuracy": 0.5, "count": 1, "confusion": content}, "test")
    assert "\n" not in str(caught.value)
