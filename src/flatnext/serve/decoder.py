"""Decoding pictures in a process of its own, which is ended where one takes too long.

A picture may be small and take hours all the same, as a JPEG that repeats a scan, and no thread can be ended. The
process is `python -m flatnext.serve.decoder`. A request is the length of a picture in 8 bytes and its content. An
answer is a letter and the pixels; or a letter, the length of a line in 8 bytes, and that line, which says why there are
none. The process ends with its input.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from flatnext.deploy.pixels import Preprocessing
from flatnext.pictures import PictureError, TooLargeError

PIXELS, REFUSED, TOO_LARGE = b"P", b"E", b"L"

LENGTH = 8
"""Bytes of a length."""


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

    def __call__(self, picture: bytes) -> np.ndarray:
        """Return the pixels (C x H x W) of a picture, the content of a file. Raises `PictureError`."""
        process, late = self.start(), threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self.seconds, end)
        timer.daemon = True
        timer.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(len(picture).to_bytes(LENGTH, "big") + picture)
            process.stdin.flush()
            return self._answer(process.stdout)
        except (EOFError, OSError):
            self.close()
            reason = f"it takes more than {self.seconds:g} seconds" if late.is_set() else "damaged: its decoder ended"
            raise PictureError("the image", reason) from None
        finally:
            timer.cancel()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            with suppress(OSError):
                self._process.communicate()
            self._process = None

    def start(self) -> subprocess.Popen[bytes]:
        """Return the process, started unless it runs; it takes a moment until it is ready."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "flatnext.serve.decoder",
                    json.dumps([asdict(self.preprocessing), self.max_pixels]),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the service, which answers what it has accepted
            )
        return self._process

    def _answer(self, output: BinaryIO | Any) -> np.ndarray:
        kind, side = _read(output, 1), self.preprocessing.image_size
        if kind == PIXELS:
            shape = (self.preprocessing.channels, side, side)
            return np.frombuffer(_read(output, int(np.prod(shape))), np.uint8).reshape(shape)
        reason = _read(output, int.from_bytes(_read(output, LENGTH), "big")).decode()
        raise (TooLargeError if kind == TOO_LARGE else PictureError)("the image", reason)


def _read(file: BinaryIO, count: int) -> bytes:
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
        while True:
            picture = _read(requests, int.from_bytes(_read(requests, LENGTH), "big"))
            answers.write(_decoded(picture, preprocessing, max_pixels))
            answers.flush()


if __name__ == "__main__":
    main()
