"""The process of the service: a model on uvicorn, until a signal ends it."""

from __future__ import annotations

import logging
import math
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from flatnext.cpu import cores
from flatnext.deploy.onnx_model import OnnxModel
from flatnext.errors import InputError, warn_of_fallback
from flatnext.runs.artifact import refusal
from flatnext.serve.settings import ServeSettings
from flatnext.versions import import_extra

if TYPE_CHECKING:
    import uvicorn

NEEDS = ("onnxruntime", "fastapi", "uvicorn", "python_multipart", "prometheus_client")

WANTED = "give an .onnx file; flatnext export WEIGHTS --to onnx makes one of a run or other weights"

CONNECTIONS = 1024
"""Open connections; another is answered with 503."""

IDLE = 30
"""Seconds that a connection may wait before the head of a request has come, or take nothing of an answer."""

GRACE = 5
"""Seconds beyond the time of a request after which a signal ends also the connections that take no answer."""


def serve(path: Path, settings: ServeSettings) -> None:
    """Serve an exported model until SIGTERM or Ctrl-C; what was accepted by then is still answered.

    `InputError`: it is no exported model, answers otherwise here than where it was exported, or the address is taken.
    """
    for module in NEEDS:
        import_extra(module, "serve")
    check_exported(path)
    listening = listen(settings.host, settings.port)
    with listening:
        _run(path, settings, listening)


def check_exported(path: Path) -> None:
    """Raise `InputError` for what is no file in ONNX by its name."""
    if path.suffix.lower() == ".onnx" and path.is_file():
        return
    if found := refusal(path, WANTED):
        raise InputError(found)
    output = f"{path.stem or 'model'}.onnx"
    raise InputError(f"{path} is no .onnx file: make one with flatnext export {path} --to onnx --output {output}")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address. `InputError`: it is taken, or no address of this machine."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server((address[0], port), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot listen on {host}:{port} ({reason}): give another --port or --host") from None


def _run(path: Path, settings: ServeSettings, listening: socket.socket) -> None:
    import uvicorn

    from flatnext.serve.app import create_app
    from flatnext.serve.connections import Connection
    from flatnext.serve.service import Service

    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # what is wrong with a form is its sender's matter
    service = Service(OnnxModel(path, threads=settings.threads or cores()), settings)
    try:
        service.start()
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(service),
                http=Connection,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ws="none",
                lifespan="off",
                timeout_keep_alive=IDLE,
                timeout_graceful_shutdown=math.ceil(settings.timeout) + GRACE,
                limit_concurrency=CONNECTIONS,
            )
        )
        _say(service.manifest.name, settings, listening, sets=service.coverage is not None)
        _until_signal(server, listening)
    finally:
        service.close()


def _until_signal(server: uvicorn.Server, listening: socket.socket) -> None:
    """Run until a signal. uvicorn ends by itself, and raises the signal again when it has: that is nothing then.

    One that comes before uvicorn listens to signals ends it as soon as it has begun.
    """

    def end(*_: object) -> None:
        server.should_exit = True

    handlers = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[listening])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _say(name: str, settings: ServeSettings, listening: socket.socket, *, sets: bool) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    port = listening.getsockname()[1]
    if not settings.loopback and settings.token is None:
        warn_of_fallback(f"everybody who reaches {host}:{port} may ask: give a token by FLATNEXT_TOKEN or --token")
    if not sets:
        warn_of_fallback("the model has no calibration for sets with a guarantee: answers come without them")
    print(f"serving {name} at http://{host}:{port} (Ctrl-C ends it)", flush=True)
