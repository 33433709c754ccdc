"""The parser of the command line: errors in one line, hints for flags of other names, no abbreviations."""

from __future__ import annotations

import argparse
import os
from typing import Any, NoReturn

from flatnext.config import RENAMED

# What users of other libraries try first, and what a flag is called now.
HINTS = {
    "--amp": "AMP is adversarial model perturbation here: --method amp; mixed precision is --precision bf16",
    "--fp16": "give --precision bf16",
    "--learning-rate": "give --lr",
    "--workers": "leave it out: the data are kept on the device",
    "--num-workers": "leave it out: the data are kept on the device",
    **dict.fromkeys(
        ("--autoattack", "--cifar10-c", "--images", "--l2", "--linf", "--measurements"),
        "it is a flag of flatnext evidence",
    ),
    **{
        f"--{no}{old}".replace("_", "-"): f"it is now called --{no}{new}".replace("_", "-")
        for old, new in RENAMED.items()
        for no in ("", "no-")
    },
}


class Parser(argparse.ArgumentParser):
    """Reports errors in one line. Takes no abbreviations, which would break in scripts when a flag is added."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Print what is wrong in one line, with a hint where there is one, and exit with status 2."""
        _, _, unknown = message.partition("unrecognized arguments: ")
        hints = [HINTS[flag] for argument in unknown.split() if (flag := argument.partition("=")[0]) in HINTS]
        message = ": ".join([message, *hints[:1]])
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n" if is_first_process() else None)


class VersionAction(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, help="print the version", **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print the version and exit."""
        from flatnext.versions import version_of

        print(f"flatnext {version_of('flatnext')}")
        parser.exit(0)


def is_first_process() -> bool:
    """Return whether this process is the only one, or the first of several, which alone prints."""
    return os.environ.get("RANK", "0") == "0"
