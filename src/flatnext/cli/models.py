"""`flatnext models`: the models that have a name."""

from __future__ import annotations

import argparse

from flatnext.cli.recipes import format_list
from flatnext.config import ABOUT_MODELS

HELP = "list the named models, with a line each"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: `models` has no flags."""


def run(options: argparse.Namespace) -> int:
    """Print the list."""
    print(format_list({name: text for name, (text, _) in ABOUT_MODELS.items()}))
    print("\nLayer by layer: flatnext summary --model NAME. Another model: its parts are flags of flatnext train.")
    return 0
