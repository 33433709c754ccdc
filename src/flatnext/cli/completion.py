"""`flatnext completion`: completion of commands and flags for a shell."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from flatnext.cli.flags import path
from flatnext.cli.parser import Parser
from flatnext.config import MODELS, RECIPES

HELP = "print the script by which a shell completes commands and flags, without starting Python"

EXAMPLES = """\
bash: flatnext completion bash > ~/.local/share/bash-completion/completions/flatnext
zsh:  flatnext completion zsh > FOLDER/_flatnext, with a folder of your fpath
"""

NAMES: dict[str, Mapping[str, object]] = {
    "--recipe": RECIPES,
    "--recipes": RECIPES,
    "--model": MODELS,
    "--models": MODELS,
}
"""The names that a flag takes, where the parser does not list them as all that there are."""


def add_arguments(parser: Parser) -> None:
    """Add the flags of `completion`."""
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="the shell")


def run(options: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    parser = options.make_parser()
    for command in _commands(parser):
        for action in command._actions:
            if action.type is path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif action.option_strings:
                action.choices = NAMES.get(action.option_strings[-1]) or action.choices
    print(shtab.complete(parser, shell=options.shell))
    return 0


def _commands(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    return [
        command
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for command in action.choices.values()
    ]
