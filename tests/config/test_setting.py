"""Settings: types, ranges and owners are checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from flatnext.config.setting import Range, Settings, setting
from flatnext.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Example(Settings):
    kind: Literal["round", "square"] = "round"
    count: int = setting(1, "a count", at_least=1)
    rate: float = setting(0.5, "a rate", above=0, at_most=1)
    decay: float = setting(0.0, "a decay", at_least=0, below=1)
    size: int | None = setting(None, "a size", at_least=4, multiple_of=4)
    sides: tuple[int, ...] = setting((1, 2), "sides", at_least=1)
    radius: float | None = setting(None, "of round", above=0, belongs_to=("kind", "round"))
    side: float | None = setting(None, "of square", above=0, belongs_to=("kind", "square"), needed=True)


def test_values_become_the_type_of_their_field():
    example = Example(rate=1, sides=[3, 4], kind="square", side=2)
    assert (example.rate, example.sides, example.side) == (1.0, (3, 4), 2.0)
    assert type(example.rate) is float


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "count is 0: give at least 1"),
        ({"count": 1.5}, "count is 1.5: give a value of type int"),
        ({"rate": 0}, "rate is 0.0: give a number above 0, up to 1"),
        ({"rate": 1.5}, "rate is 1.5: give a number above 0, up to 1"),
        ({"rate": float("nan")}, "rate is nan: give a finite number"),
        ({"decay": 1.0}, "decay is 1.0: give a number from 0 to below 1"),
        ({"size": 6}, "size is 6: give a multiple of 4, at least 4, or leave it out"),
        ({"sides": ()}, "sides is (): give one or more numbers, each at least 1"),
        ({"sides": (1, 0)}, "sides is (1, 0): give one or more numbers, each at least 1"),
        ({"kind": "oval"}, "kind is 'oval': choose one of round, square"),
        ({"kind": "square"}, "kind=square needs side"),
        ({"side": 1.0}, "side belongs to kind=square, not to round: leave it out"),
        ({"kind": "square", "side": 1.0, "radius": 1.0}, "radius belongs to kind=round, not to square: leave it out"),
    ],
)
def test_a_message_names_the_setting_the_value_and_the_remedy(settings, message):
    with pytest.raises(InputError) as caught:
        Example(**settings)
    assert str(caught.value) == message


def test_a_range_in_words():
    assert str(Range(at_least=0, at_most=9)) == "a number from 0 to 9"
    assert str(Range(above=0)) == "a number above 0"
