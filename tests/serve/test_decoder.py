"""Decoding in a process of its own: the pixels of `read_picture`, and an end to what takes too long."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from flatnext.deploy.pixels import Preprocessing
from flatnext.pictures import PictureError, TooLargeError, read_picture
from flatnext.serve.decoder import Decoder, DecoderError

PIXELS = np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8)
SLOW = b"P3\n8 8\n255\n" + b"#\n" * 5_000_000 + b"7 " * 192
"""A picture of 8 x 8 pixels that Pillow reads for minutes."""


def png(pixels: np.ndarray = PIXELS) -> bytes:
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    decoder = Decoder(Preprocessing(image_size=8), max_pixels=10_000, seconds=30.0)
    yield decoder
    decoder.close()


def test_pixels_are_those_of_a_file(decoder: Decoder) -> None:
    expected = read_picture(io.BytesIO(png()), size=8).transpose(2, 0, 1)
    process = decoder.start()
    for _ in range(2):
        assert np.array_equal(decoder(png()), expected)
    assert decoder.start() is process


def test_what_cannot_be_read_says_why_and_the_process_goes_on(decoder: Decoder) -> None:
    process = decoder.start()
    for content, kind, reason in (
        (b"", PictureError, "no image, or of an unknown format"),
        (png()[:200], PictureError, "damaged"),
        (png(np.zeros((101, 100, 3), np.uint8)), TooLargeError, "more than 10,000 pixels"),
    ):
        with pytest.raises(kind, match=reason) as caught:
            decoder(content)
        assert str(caught.value).startswith("the image (")
    assert decoder.start() is process


def test_a_picture_that_takes_too_long_is_refused_and_the_next_one_read(decoder: Decoder) -> None:
    decoder(png())
    decoder.seconds = 0.3
    began = time.monotonic()
    with pytest.raises(PictureError, match=r"it takes more than 0\.3 seconds"):
        decoder(SLOW)
    assert time.monotonic() - began < 5
    decoder.seconds = 30.0
    assert decoder(png()).shape == (3, 8, 8)


def test_the_time_of_a_picture_begins_when_the_process_is_ready(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = "import sys, time; time.sleep(0.4); print(end='R', flush=True); print(end='E' + 8 * chr(0), flush=True)"
    monkeypatch.setattr("flatnext.serve.decoder.python", lambda *_: [sys.executable, "-c", wait])
    decoder.seconds = 0.2
    with pytest.raises(PictureError, match=r"the image \(\)"):  # its answer: no reason
        decoder(b"")


def test_a_process_that_has_been_killed_is_started_anew(decoder: Decoder) -> None:
    for _ in range(2):  # before its first picture, and after it
        decoder.start().kill()
        assert decoder(png()).shape == (3, 8, 8)
    process = decoder.start()
    decoder.close()
    assert process.returncode is not None


@pytest.mark.parametrize(
    ("program", "error", "words"),
    [
        ("", DecoderError, "did not get as far as its first picture"),
        ("import sys; print(end='R', flush=True); sys.stdin.read(1)", PictureError, "damaged: its decoder ended"),
    ],
)
def test_whose_fault_it_is_that_a_process_ends_is_told_by_whether_it_began(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, program: str, error: type[Exception], words: str
) -> None:
    started = []
    command = [sys.executable, "-c", program]
    monkeypatch.setattr("flatnext.serve.decoder.python", lambda *_: started.append(1) or command)
    with pytest.raises(error, match=words):
        decoder(png())
    assert len(started) == 2
    monkeypatch.undo()
    assert decoder(png()).shape == (3, 8, 8)
