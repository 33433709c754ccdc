"""What has changed between two fingerprints, in words."""

from dataclasses import replace

import pytest

from flatnext.runs.fingerprint import DataFingerprint, ImagesFingerprint, change


def images(*counts, sha256="a"):
    return ImagesFingerprint(counts=counts, sha256=sha256)


BEFORE = DataFingerprint(classes=("apple", "pear"), train=images(40, 30), validation=images(4, 3), test=images(2, 2))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"classes": ("pear", "zapple")}, "of its classes apple is gone and zapple is new"),
        ({"classes": ("apple", "fig", "pear")}, "of its classes fig is new"),
        ({"classes": ("pear", "apple")}, "the classes are in another order"),
        ({"train": images(40, 1230)}, "70 training images have become 1,270"),
        ({"validation": None}, "7 validation images have become 0"),
        ({"test": images(1, 3)}, "test images: apple had 2 and has 1, pear had 2 and has 3"),
        ({"test": images(2, 2, sha256="b")}, "pixels or labels of the 4 test images are different"),
    ],
)
def test_words(changes, words):
    assert change(BEFORE, replace(BEFORE, **changes)) == words


def test_only_the_splits_that_are_asked_for_count():
    now = replace(BEFORE, train=images(1, 1))
    assert change(BEFORE, now, "test", "validation") is None
    assert change(BEFORE, now, "train") == "70 training images have become 2"
    assert "more" in change(BEFORE, replace(BEFORE, classes=tuple("abcdef")))
