"""The parser of the command line: errors in one line with what was meant, no abbreviations."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Sequence
from typing import Any, NoReturn

from flatnext.cli.hints import COMMANDS, hint
from flatnext.errors import choose
from flatnext.launch import speaks


class Parser(argparse.ArgumentParser):
    """Reports errors in one line. Takes no abbreviations, which would break in scripts when a flag is added.

    `typed` are the arguments that it will parse: the defaults that a help shows depend on them.
    """

    typed: Sequence[str] = ()

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments. One that is unknown is an error here, so that a command names its own help."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            meant = hint(unknown, self._option_string_actions)
            self.error(": ".join(filter(None, [f"unrecognized arguments: {' '.join(unknown)}", meant])))
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """Print what is wrong in one line, and exit with status 2."""
        lacks = re.match(r"argument (--[\w-]+): expected", message)
        if message.startswith("the following arguments are required") and self.usage:
            message = f"{message}: {self.usage}"
        elif lacks and (metavar := self._option_string_actions[lacks[1]].metavar):
            message = f"{message}: {lacks[1]} {metavar}"
        command = self.prog.partition(" ")[2]
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n" if speaks(command) else None)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            close = COMMANDS.get(value) if isinstance(action, argparse._SubParsersAction) else None
            remedy = f"did you mean {close}?" if close else choose(value, map(str, action.choices))
            if action.dest == "setting_dataset" and os.path.isdir(value):
                remedy = f"for the pictures in the folder {value}, give --data-dir {shlex.quote(value)} instead"
            raise argparse.ArgumentError(action, f"{value!r} is unknown: {remedy}")


class VersionAction(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, help="print the version", **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print the version and exit."""
        from flatnext.versions import version_of

        print(f"flatnext {version_of('flatnext')}")
        parser.exit(0)
