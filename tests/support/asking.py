"""A service in the same process, and asking it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

from flatnext.deploy.onnx_model import OnnxModel
from flatnext.serve.app import create_app
from flatnext.serve.service import Service
from flatnext.serve.settings import ServeSettings

ADDRESS = "http://127.0.0.1:8000"


async def ask(app: Any, *requests: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
    """Return the responses to requests (method, path, options of httpx) that come at the same time."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=ADDRESS) as client:
        return await asyncio.gather(*(client.request(method, url, **options) for method, url, options in requests))


def start(services: list[Service], path: Path, **settings: Any) -> Any:
    """Start a service, and return a function that asks it: `request(method, path, **options of httpx)`."""
    service = Service(OnnxModel(path, threads=1), ServeSettings(**settings))
    services.append(service)
    app = create_app(service)

    def request(method: str, url: str, **options: Any) -> httpx.Response:
        return asyncio.run(ask(app, (method, url, options)))[0]

    request.app, request.service = app, service  # type: ignore[attr-defined]
    return request
