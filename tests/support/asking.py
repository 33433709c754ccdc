"""Asking an ASGI application, in the same process."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

ADDRESS = "http://127.0.0.1:8000"


async def ask(app: Any, *requests: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
    """Return the responses to requests (method, path, options of httpx) that come at the same time."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=ADDRESS) as client:
        return await asyncio.gather(*(client.request(method, url, **options) for method, url, options in requests))
