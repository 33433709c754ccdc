"""The command line, a file a command: `main.py` has the table of them."""

from flatnext.cli.main import COMMANDS, main, make_parser

__all__ = ["COMMANDS", "main", "make_parser"]
