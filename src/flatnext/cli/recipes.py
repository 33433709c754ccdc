"""`flatnext recipes`: the recipes that come with the package."""

from __future__ import annotations

import argparse

from flatnext.config import RECIPES, about

HELP = "list the recipes, with a line each"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: `recipes` has no flags."""


def run(options: argparse.Namespace) -> int:
    """Print the list."""
    print(format_list({name: about(name) for name in RECIPES}))
    print("\nRECIPE+METHOD is one with another method (quick+sam), RECIPE-MODEL with another model (quick-resnext11).")
    print("All settings of one: flatnext train --recipe NAME --help")
    return 0


def format_list(lines: dict[str, str]) -> str:
    """Return names and what they are, in two columns."""
    width = max(map(len, lines)) + 2
    return "\n".join(f"{name:{width}}{text}" for name, text in lines.items())
