"""`flatnext serve`: an exported model over HTTP, with a page."""

from __future__ import annotations

import argparse
import os

from flatnext.cli.flags import add_flags_of, given, path
from flatnext.serve.settings import ServeSettings

HELP = "serve an exported model over HTTP, with a page"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `serve`."""
    parser.usage = "flatnext serve MODEL.onnx [options]"
    parser.add_argument("model", type=path, metavar="MODEL.onnx", help="a file of flatnext export --to onnx")
    parser.add_argument(
        "--token",
        default=argparse.SUPPRESS,
        help="what requests must carry as Authorization: Bearer TOKEN; better given in the environment as "
        "FLATNEXT_TOKEN, where others on this machine do not see it",
    )
    add_flags_of(ServeSettings, parser)


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    settings = given(ServeSettings, options)
    settings.setdefault("token", os.environ.get("FLATNEXT_TOKEN"))

    from flatnext.serve.server import serve

    serve(options.model, ServeSettings(**settings))
    return 0
