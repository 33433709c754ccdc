"""Numbers of things and lists of names in words."""

import pytest

from flatnext.words import counted, listing, shortened


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "class folder", "0 class folders"),
        (1, "class folder", "1 class folder"),
        (2, "class", "2 classes"),
        (1, "class", "1 class"),
        (1200, "image", "1,200 images"),
        (3, "epoch", "3 epochs"),
        (2, "batch", "2 batches"),
        (2, "process", "2 processes"),
    ],
)
def test_counted(number, noun, text):
    assert counted(number, noun) == text


def test_lists():
    assert [listing("abc"[:n]) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
    assert [shortened("abcde"[:n]) for n in (0, 1, 3, 4, 5)] == [
        "",
        "a",
        "a, b, c",
        "a, b, c and 1 more",
        "a, b, c and 2 more",
    ]
    assert shortened(iter("abcd"), 2) == "a, b and 2 more"
