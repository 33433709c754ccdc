"""The images of a request: its body, read within limits, raw or as a multipart form."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import HTTPException
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from flatnext.serve.settings import ServeSettings
from flatnext.words import counted

RAW = "application/octet-stream"
MULTIPART = "multipart/form-data"
HOW = f"send an image with Content-Type: image/png (or another, or {RAW}), or a form of files as {MULTIPART}"

LINGER = 1.0
"""Seconds in which a body that is refused is still read: else many clients would see no answer but a broken pipe."""

PARTS = {"MAX_MEMORY_FILE_SIZE": float("inf"), "UPLOAD_ERROR_ON_BAD_CTE": True}
"""How forms are parsed: in memory, since the body has its limit; nothing is written to the disk."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An image as it was sent: its bytes, and the file name, which is a label and never a path here."""

    name: str | None
    content: bytes


Take = Callable[[int], None]
"""Is told of bytes that arrive, and raises `HTTPException` where they are too many."""


@dataclass(kw_only=True)
class Load:
    """What the service holds of requests without an answer: how many, and the bytes of their bodies."""

    most_requests: int
    most_bytes: int
    requests: int = 0
    bytes: int = 0

    @contextmanager
    def request(self) -> Iterator[Take]:
        """Hold a request while the block runs. `HTTPException` (503): there are too many, or later too many bytes."""
        if self.requests >= self.most_requests:
            raise _busy()
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            if self.bytes + count > self.most_bytes:
                raise _busy()
            self.bytes += count
            taken += count

        self.requests += 1
        try:
            yield take
        finally:
            self.requests -= 1
            self.bytes -= taken


def _busy() -> HTTPException:
    return HTTPException(503, "too many requests at once: try again later", {"Retry-After": "1"})


async def read_uploads(request: Request, settings: ServeSettings, take: Take) -> list[Upload]:
    """Return the images of a request; there is at least one.

    `HTTPException`: 400 a malformed form; 408 the upload is too slow; 413 too many bytes or images; 415 a body of
    another kind; 422 no image, or text in the form; 503 too many bodies at once. The content of images is not looked
    at.
    """
    try:
        kind, options = parse_options_header(request.headers.get("content-type") or RAW)
    except (TypeError, ValueError) as error:  # of python-multipart 0.0.18
        raise HTTPException(400, f"the Content-Type is malformed: {HOW}") from error
    media = kind.decode("latin-1").lower()
    if media not in (RAW, MULTIPART) and not media.startswith("image/"):
        raise HTTPException(415, f"the body is {shown(media)}: {HOW}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "the body is compressed: send it without Content-Encoding")
    body = await _read(request, settings, take)
    if media != MULTIPART:
        if not body:
            raise HTTPException(422, f"the body is empty: {HOW}")
        return [Upload(name=None, content=body)]
    return await asyncio.to_thread(_parse, body, options.get(b"boundary"), settings.max_images)


async def _read(request: Request, settings: ServeSettings, take: Take) -> bytes:
    declared = request.headers.get("content-length", "")
    too_large = HTTPException(413, f"the body has more than {settings.max_bytes:,} bytes: send a smaller one")
    if declared.isdecimal() and len(declared) < 20 and int(declared) > settings.max_bytes:
        await _linger(request)
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(settings.timeout):
            async for chunk in request.stream():
                if len(body) + len(chunk) > settings.max_bytes:
                    raise too_large
                take(len(chunk))
                body += chunk
    except TimeoutError:
        raise HTTPException(408, f"the upload took longer than {settings.timeout:g} seconds") from None
    except ClientDisconnect:
        raise HTTPException(400, "the connection was closed before the body was whole") from None
    except HTTPException:
        await _linger(request)
        raise
    return bytes(body)


async def _linger(request: Request) -> None:
    """Read and forget what is still sent, for a short time."""
    until = time.monotonic() + LINGER
    try:
        async with asyncio.timeout(LINGER):
            while time.monotonic() < until and (await request.receive()).get("more_body"):
                pass
    except TimeoutError:
        pass


def _parse(body: bytes, boundary: bytes | None, most: int) -> list[Upload]:
    """Return the files of a form."""
    uploads: list[Upload] = []
    ended: list[bool] = []

    def add(file: File) -> None:
        if len(uploads) == most:
            raise HTTPException(413, f"there are more than {counted(most, 'image')}: send fewer in a request")
        name = (file.file_name or b"").decode("utf-8", "replace")
        file.file_object.seek(0)
        uploads.append(Upload(name=name or None, content=file.file_object.read()))
        file.close()

    def refuse(field: Field) -> None:
        name = shown((field.field_name or b"").decode("utf-8", "replace"))
        raise HTTPException(422, f"the field {name} is text: send images as files, and settings in the query (?top=3)")

    if not boundary:
        raise HTTPException(400, "the form has no boundary: leave the Content-Type of a form to your HTTP library")
    try:
        parser = FormParser(MULTIPART, refuse, add, lambda: ended.append(True), boundary=boundary, config=PARTS)
        parser.write(body)
        parser.finalize()
    except (FormParserError, AssertionError) as error:
        raise HTTPException(400, f"the form is malformed: {shown(str(error))}") from None
    if not ended:
        raise HTTPException(400, "the form is malformed: it ends early")
    return _not_empty(uploads)


def _not_empty(uploads: Iterable[Upload]) -> list[Upload]:
    found = list(uploads)
    if not found:
        raise HTTPException(422, f"the form has no file: {HOW}")
    return found


def shown(text: str) -> str:
    """Return a text of others in a message: short, and with nothing that a terminal would obey."""
    return ascii(text if len(text) <= 60 else f"{text[:60]}...")
