"""A port for a test's own server."""

import socket


def free_port() -> int:
    """Return a port of this machine that nobody listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
