"""Who may ask the service: the token, the Host and Origin headers; and the headers that each answer carries."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flatnext.serve.settings import ServeSettings

LOCAL = ("localhost", "127.0.0.1", "::1")

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""The page may load what the service has, and nothing else. Other sites may neither read nor frame it."""


class Guard:
    """Middleware that refuses those who may not ask.

    - With a token, every path but those in `open_paths` needs `Authorization: Bearer TOKEN`, which no other site can
      make a browser send: there is no CORS.
    - Without one, a service on the loopback address answers to local names only: a site whose name is made to lead to
      127.0.0.1 (DNS rebinding) sends its own name in `Host`. And a browser that asks for another site names it in
      `Origin`.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, open_paths: frozenset[str]) -> None:
        self.app, self.settings, self.open_paths = app, settings, open_paths
        self.token = settings.token.encode() if settings.token is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        answered = False

        async def with_headers(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refused = self._refuse(scope["path"], Headers(scope=scope))
        try:
            await (refused or self.app)(scope, receive, with_headers)
        except Exception:  # here, as Starlette's own answer would lack the headers; it writes the error to the log
            if not answered:
                await problem(500, "the service failed; its log says more")(scope, receive, with_headers)
            raise

    def _refuse(self, path: str, headers: Headers) -> Response | None:
        if self.token is not None:
            if path in self.open_paths or self._authorized(headers):
                return None
            needed = {"WWW-Authenticate": 'Bearer realm="flatnext"'}
            return problem(401, "this needs the token: send the header Authorization: Bearer TOKEN", needed)
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.settings.loopback and _name(host) not in (*LOCAL, self.settings.host):
            return problem(421, "this service answers to local names only: ask 127.0.0.1, or start it with --token")
        if origin is not None and _authority(origin) != host:
            return problem(403, "another site may not ask this service through a browser")
        return None

    def _authorized(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        assert self.token is not None
        # In constant time: how long it takes does not tell how much of a guess was right.
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self.token)


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return the answer to a request that is refused, in the one form that all have."""
    return JSONResponse({"detail": detail}, status_code=status, headers=headers)


def _name(host: str) -> str:
    """Return the name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
