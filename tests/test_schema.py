"""JSON to dataclasses and back: what is read, what is refused, and how the message names the place."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flatnext.errors import InputError
from flatnext.schema import ParseError, dump, parse

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Circle:
    name: ClassVar[str] = "circle"
    radius: float = 1.0

    def __post_init__(self) -> None:
        if self.radius < 0:
            raise ValueError(f"radius is {self.radius}: give a positive number")


@dataclass(frozen=True, kw_only=True)
class Square:
    name: ClassVar[str] = "square"
    side: int = 1


@dataclass(frozen=True, kw_only=True)
class Box(Generic[T]):
    content: T


@dataclass(frozen=True, kw_only=True)
class Drawing:
    title: str
    shape: Circle | Square
    frame: Circle | Square | None = None
    sizes: tuple[float, ...] = ()
    corner: tuple[int, str] = (0, "")
    colours: dict[str, int | None] | None = None
    style: Literal["plain", "dotted"] = "plain"
    final: bool = False
    extra: Any = None
    box: Box[Circle] | None = None


WHOLE = {
    "title": "x",
    "shape": {"name": "square", "side": 2},
    "frame": {"name": "circle", "radius": 1},
    "sizes": [1, 2.5],
    "corner": [3, "a"],
    "colours": {"red": 1, "green": None},
    "style": "dotted",
    "final": True,
    "extra": {"any": ["thing", None]},
    "box": {"content": {"radius": 2.0}},
}


def test_each_kind_of_annotation_is_read() -> None:
    drawing = parse(Drawing, WHOLE)
    assert drawing == Drawing(
        title="x",
        shape=Square(side=2),
        frame=Circle(radius=1.0),
        sizes=(1.0, 2.5),
        corner=(3, "a"),
        colours={"red": 1, "green": None},
        style="dotted",
        final=True,
        extra={"any": ["thing", None]},
        box=Box(content=Circle(radius=2.0)),
    )
    assert isinstance(drawing.frame.radius, float)
    assert all(isinstance(size, float) for size in drawing.sizes)


def test_what_has_a_default_may_be_missing() -> None:
    assert parse(Drawing, {"title": "x", "shape": {"name": "circle"}}) == Drawing(title="x", shape=Circle())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": 3}, "drawing.title is 3: give a value of type str"),
        ({"shape": {"side": 1}}, "drawing.shape: unknown name None: choose one of circle, square"),
        ({"shape": {"name": ["circle"]}}, "drawing.shape: unknown name ['circle']: choose one of circle, square"),
        ({"shape": {"name": "circle", "side": 1}}, "drawing.shape has no setting 'side': choose one of radius"),
        ({"shape": 3}, "drawing.shape is 3: give an object with values by name"),
        ({"shape": {"name": "circle", "radius": -1}}, "drawing.shape: radius is -1.0: give a positive number"),
        ({"sizes": [1, "2"]}, "drawing.sizes[1] is '2': give a value of type float"),
        ({"sizes": [True]}, "drawing.sizes[0] is True: give a value of type float"),
        ({"sizes": 3}, "drawing.sizes is 3: give a list"),
        ({"sizes": [math.inf]}, "drawing.sizes[0] is inf: give a finite number"),
        ({"sizes": [10**400]}, "drawing.sizes[0] is 1000"),
        ({"corner": [1]}, "drawing.corner is [1]: give a list of 2"),
        ({"corner": [2**53 + 1, ""]}, "drawing.corner[0] is 9007199254740993: give a number of at most 2**53"),
        ({"colours": {"red": "1"}}, "drawing.colours.red is '1': give a value of type int"),
        ({"style": "wavy"}, "drawing.style is 'wavy': choose one of plain, dotted"),
        ({"style": ["plain"]}, "drawing.style is ['plain']: choose one of plain, dotted"),
        ({"final": 1}, "drawing.final is 1: give a value of type bool"),
        ({"final": None}, "drawing.final is None: give a value of type bool"),
        ({"box": {}}, "drawing.box.content is missing"),
        ({"box": {"content": {"radius": "1"}}}, "drawing.box.content.radius is '1': give a value of type float"),
        ({"titel": "x"}, "drawing has no setting 'titel': did you mean title?"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_the_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse(Drawing, WHOLE | change, "drawing")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
    assert isinstance(caught.value, InputError)


@pytest.mark.parametrize("change", ["title", "corner", "shape"])
def test_what_is_nested_without_end_is_refused_at_once(change: str) -> None:
    nested: Any = ["x"]
    for _ in range(60):  # as YAML's aliases have it
        nested = [nested, nested]
    began = time.perf_counter()
    with pytest.raises(ParseError):
        parse(Drawing, WHOLE | {change: {"name": nested} if change == "shape" else nested}, "drawing")
    assert time.perf_counter() - began < 20  # and not for ever


def test_unknown_keys_can_be_ignored_at_every_depth() -> None:
    content = WHOLE | {"new": 1, "shape": {"name": "square", "side": 2, "new": 1}}
    assert parse(Drawing, content, unknown="ignore") == parse(Drawing, WHOLE)


def test_no_boolean_is_a_number_of_a_choice() -> None:
    with pytest.raises(ParseError):
        parse(Literal[1, 2], True, "n")
    assert parse(Literal[1, 2], 1, "n") == 1


def test_numbers_that_json_has_not_are_written_as_null() -> None:
    assert dump({"a": (1.0, math.nan, -math.inf), "b": Circle(radius=math.inf)}) == {
        "a": [1.0, None, None],
        "b": {"name": "circle", "radius": None},
    }


shapes = st.builds(Circle, radius=st.floats(0, allow_infinity=False)) | st.builds(
    Square, side=st.integers(-(2**53), 2**53)
)


@settings(max_examples=50, deadline=None)
@given(
    st.builds(
        Drawing,
        title=st.text(),
        shape=shapes,
        frame=st.none() | shapes,
        sizes=st.lists(st.floats(allow_nan=False, allow_infinity=False)).map(tuple),
        colours=st.none() | st.dictionaries(st.text(), st.none() | st.integers(-9, 9)),
        final=st.booleans(),
        box=st.none() | st.builds(Box, content=st.builds(Circle)),
    )
)
def test_what_is_written_is_read_back(drawing: Drawing) -> None:
    content = dump(drawing)
    if content["box"]:
        del content["box"]["content"]["name"]  # only a union needs it
    assert parse(Drawing, json.loads(json.dumps(content, allow_nan=False))) == drawing
