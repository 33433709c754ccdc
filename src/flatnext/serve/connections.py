"""Connections that send nothing, or take nothing. uvicorn's own limit, `timeout_keep_alive`, begins after an answer."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

BUSY = object()


class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's protocol, which also closes a connection that waits for the head of a request for too long.

    That is within `timeout_keep_alive` seconds of its beginning, and within twice that after an answer: a head that
    comes in little pieces is given no more time. So is one whose client takes nothing of an answer for as long.
    """

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
