"""`flatnext report`: the study report, made again from the files of runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from flatnext.cli.flags import path

HELP = "write report.html and report.md again from the runs on disk"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `report`."""
    parser.usage = "flatnext report DIR [DIR ...] [options]"
    parser.add_argument("folders", nargs="+", type=path, metavar="DIR", help="study folders or run folders")
    parser.add_argument("--output", type=path, metavar="DIR", help="where to write (default: the first folder)")


def run(options: argparse.Namespace) -> int:
    """Write the report, and print its verdict."""
    write(options.folders, options.output or options.folders[0])
    return 0


def write(folders: Sequence[Path], output: Path) -> None:
    """Write the report on the runs in `folders` to the folder `output`; print the verdict and the files."""
    from flatnext.report import write_report
    from flatnext.study.advice import summary
    from flatnext.study.reading import read_study

    study = read_study(folders)
    write_report(study, output)
    for line in (*summary(study), output / "report.html", output / "report.md"):
        print(line)
