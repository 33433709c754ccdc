"""Connections that send nothing, or a head without an end, or take nothing.

uvicorn's own limit of time, `timeout_keep_alive`, begins after an answer, and httptools has no limit for a head.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

BUSY = object()

HEAD_BYTES = 64 * 1024
"""What a request may have beside its body, as in h11."""

FRAMED = 8
"""Times the bytes of its body that the frames around its chunks may be: those around single bytes are six."""

COUNTS = hasattr(AutoHTTPProtocol, "on_body")  # httptools: h11 counts itself
TOO_LARGE = f'{{"detail":"the head of the request has more than {HEAD_BYTES:,} bytes: send a smaller one"}}'.encode()


class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's protocol, which also closes a connection that waits for the head of a request for too long.

    That is within `timeout_keep_alive` seconds of its beginning, and within twice that after an answer: a head that
    comes in little pieces is given no more time. So is one whose client takes nothing of an answer for as long, and one
    with a head or trailers of more than `HEAD_BYTES`, give or take what is read at once.
    """

    _received = _of_body = 0  # bytes of the request under way

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to watch the connection."""
        super().connection_made(transport)
        self._before: Any = self.cycle
        self._unsent = 0
        self._watch()

    def connection_lost(self, error: Exception | None) -> None:
        """End watching."""
        self._timer.cancel()
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        """Read on; refuse a head that is too large."""
        self._received += len(data)
        super().data_received(data)
        if COUNTS and self._received - FRAMED * self._of_body > HEAD_BYTES and not self.transport.is_closing():
            if self.cycle is not None and not self.cycle.response_complete:
                self.transport.abort()
                return
            head = f"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: {len(TOO_LARGE)}\r\n"
            kind = "content-type: application/json\r\nconnection: close\r\n\r\n"
            self.transport.write((head + kind).encode() + TOO_LARGE)
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._of_body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request: another may follow in the same bytes."""
        self._received = self._of_body = 0
        super().on_message_complete()

    def _watch(self) -> None:
        self._timer = self.loop.call_later(self.timeout_keep_alive, self._look)

    def _look(self) -> None:
        """Close the connection if no request has come since the last look, and none is being answered.

        Or if what was waiting to be sent then is still waiting.
        """
        unsent, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        if 0 < unsent <= self._unsent:
            self.transport.abort()
            return
        now = BUSY if self.cycle is not None and not self.cycle.response_complete else self.cycle
        if now is not BUSY and now is self._before:
            self.transport.close()
        else:
            self._before = now
            self._watch()
