"""Decoding pictures in a process of its own, which is ended where one takes too long.

A picture may be small and take hours all the same, as a JPEG that repeats a scan, and no thread can be ended. The
process runs this module. It says by a letter that it is ready. A request is the length of a picture in 8 bytes and its
content. An answer is a letter and the pixels; or a letter, the length of a line in 8 bytes, and that line, which says
why there are none. The process ends with its input.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import IO

import numpy as np
from PIL import Image

from flatnext.deploy.pixels import Preprocessing
from flatnext.launch import python
from flatnext.pictures import PictureError, TooLargeError

READY, PIXELS, REFUSED, TOO_LARGE = b"R", b"P", b"E", b"L"

LENGTH = 8
"""Bytes of a length."""

START_SECONDS = 10.0
"""In which a process must be ready; it takes about a third of a second where nothing else runs."""


class DecoderError(Exception):
    """A decoder has ended before it could decode anything, which is no fault of the picture."""


class Decoder:
    """Decodes pictures, one at a time, in a process that is started when there is one, and anew after it was ended.

    Args:
        preprocessing: what becomes of them.
        max_pixels: a larger picture is refused.
        seconds: in which each must be decoded.
    """

    def __init__(self, preprocessing: Preprocessing, max_pixels: int, seconds: float) -> None:
        self.preprocessing, self.max_pixels, self.seconds = preprocessing, max_pixels, seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False

    def __call__(self, picture: bytes) -> np.ndarray:
        """Return the pixels (C x H x W) of a picture, the content of a file.

        Raises `PictureError`; `DecoderError` where no process can be started. One that ends is started once more: it
        may have been killed before it had the picture.
        """
        try:
            return self._ask(picture)
        except (EOFError, OSError):
            self.close()
        try:
            return self._ask(picture)
        except (EOFError, OSError):
            ready = self._ready
            self.close()
            if not ready:
                raise DecoderError("a decoder did not get as far as its first picture") from None
            raise PictureError("the image", "damaged: its decoder ended") from None

    def _ask(self, picture: bytes) -> np.ndarray:
        """Return the pixels of a picture. `EOFError` or `OSError`: the process has ended."""
        process = self.start()
        assert process.stdin is not None
        assert process.stdout is not None
        if not self._ready:  # with a limit of its own: the start is no part of the picture's time
            with _ended_after(process, START_SECONDS):
                _read(process.stdout, len(READY))
            self._ready = True
        with _ended_after(process, self.seconds) as late:
            try:
                process.stdin.write(len(picture).to_bytes(LENGTH, "big") + picture)
                process.stdin.flush()
                return self._answer(process.stdout)
            except (EOFError, OSError):
                if not late.is_set():
                    raise
        self.close()
        raise PictureError("the image", f"it takes more than {self.seconds:g} seconds")

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            with suppress(OSError):
                self._process.communicate()
            self._process, self._ready = None, False

    def start(self) -> subprocess.Popen[bytes]:
        """Return the process, started unless it runs; it takes a moment until it is ready."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                python("flatnext.serve.decoder", json.dumps([asdict(self.preprocessing), self.max_pixels])),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the service, which answers what it has accepted
            )
        return self._process

    def _answer(self, output: IO[bytes]) -> np.ndarray:
        kind, side = _read(output, 1), self.preprocessing.image_size
        if kind == PIXELS:
            shape = (self.preprocessing.channels, side, side)
            return np.frombuffer(_read(output, int(np.prod(shape))), np.uint8).reshape(shape)
        reason = _read(output, int.from_bytes(_read(output, LENGTH), "big")).decode()
        raise (TooLargeError if kind == TOO_LARGE else PictureError)("the image", reason)


@contextmanager
def _ended_after(process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """Kill a process that is still at the block after so long; the event then is set."""
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _read(file: IO[bytes], count: int) -> bytes:
    """Return so many bytes; `EOFError` where the file ends before."""
    content = file.read(count)
    if len(content) < count:
        raise EOFError
    return content


def _decoded(picture: bytes, preprocessing: Preprocessing, max_pixels: int) -> bytes:
    try:
        return PIXELS + preprocessing.read(io.BytesIO(picture), max_pixels).tobytes()
    except PictureError as error:
        reason = error.reason.encode()
        kind = TOO_LARGE if isinstance(error, TooLargeError) else REFUSED
        return kind + len(reason).to_bytes(LENGTH, "big") + reason


def main() -> None:
    """Answer requests on standard input until it ends."""
    settings, max_pixels = json.loads(sys.argv[1])
    preprocessing = Preprocessing(**settings)
    # Pictures inside of pictures (icons) are checked by Pillow alone, which refuses twice this number.
    Image.MAX_IMAGE_PIXELS = (max_pixels + 1) // 2
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    with suppress(EOFError, BrokenPipeError):
        answers.write(READY)
        answers.flush()
        while True:
            picture = _read(requests, int.from_bytes(_read(requests, LENGTH), "big"))
            answers.write(_decoded(picture, preprocessing, max_pixels))
            answers.flush()


if __name__ == "__main__":
    main()
