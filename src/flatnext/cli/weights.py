"""`flatnext weights`: the weights that come with the package."""

from __future__ import annotations

import argparse

HELP = "list the trained weights that come with the package"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: `weights` has no flags."""


def run(options: argparse.Namespace) -> int:
    """Print the list."""
    from flatnext.models import format_shipped, shipped

    print(format_shipped(shipped()))
    return 0
