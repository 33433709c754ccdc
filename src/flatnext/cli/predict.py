"""`flatnext predict`: what a trained model sees in pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from flatnext.cli.flags import path
from flatnext.progress import ConsoleDisplay, Display, Task, printable
from flatnext.words import counted

if TYPE_CHECKING:
    from flatnext.deploy.classifier import Answered
    from flatnext.deploy.prediction import Prediction

HELP = "say what is in pictures, with a trained model"
FORMATS = ("table", "jsonl", "csv")
LONG = 200
"""From so many files on, progress is shown."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `predict`."""
    parser.usage = "flatnext predict MODEL FILE|FOLDER|GLOB|- ... [options]"
    parser.add_argument(
        "model", type=path, metavar="MODEL", help="run folder, weights file, .onnx file, or a name of flatnext weights"
    )
    parser.add_argument(
        "pictures",
        nargs="+",
        metavar="PICTURE",
        help="image files, folders of them, patterns, or - for standard input: an image, or paths, one a line",
    )
    parser.add_argument("--top", type=int, default=1, metavar="K", help="the K most likely classes (default 1)")
    parser.add_argument(
        "--coverage",
        type=float,
        metavar="P",
        help="also the set of classes that holds the true one with this probability, such as 0.95; it may be empty",
    )
    parser.add_argument(
        "--threshold", type=float, metavar="P", help='say "none of these" where the probability is below P'
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="table, or for programs jsonl or csv (default: table on a terminal, else jsonl)",
    )
    parser.add_argument("--batch-size", type=int, default=100, metavar="N", help="pictures at a time (default 100)")
    parser.add_argument("--checkpoint", choices=["last", "best"], help="checkpoint in a run folder (default last)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default auto)")


def run(options: argparse.Namespace) -> int:
    """Print the answers, and on standard error what could not be read."""
    from flatnext.deploy.answers import write_answers
    from flatnext.deploy.loading import load
    from flatnext.deploy.picture_paths import find_pictures

    model = load(options.model, checkpoint=options.checkpoint, device=options.device)
    pictures = find_pictures(options.pictures, sys.stdin.buffer if "-" in options.pictures else None)
    question = model.ask(top=options.top, coverage=options.coverage, threshold=options.threshold)
    format = options.format or ("table" if sys.stdout.isatty() else "jsonl")
    # A bar and a table that grows would write over each other on one terminal.
    display = (
        ConsoleDisplay() if len(pictures) >= LONG and not (format == "table" and sys.stdout.isatty()) else Display()
    )
    skipped: list[str] = []
    with display.task(f"{counted(len(pictures), 'picture')}", total=len(pictures)) as task:
        answers = model.predict_files(pictures, question, options.batch_size)
        write_answers(_readable(answers, task, len(pictures), skipped), question, format)
    if len(skipped) > 1:
        print(f"flatnext: {len(skipped):,} of {len(pictures):,} pictures could not be read", file=sys.stderr)
    return 1 if skipped else 0


def _readable(
    answers: Iterator[Answered], task: Task, total: int, skipped: list[str]
) -> Iterator[tuple[str, Prediction]]:
    """Yield the names and answers of the files that could be read, and say which could not."""
    from flatnext.deploy.picture_paths import name_of
    from flatnext.pictures import PictureError

    for done, (source, answer) in enumerate(answers, start=1):
        task(done, total)
        if isinstance(answer, PictureError):
            skipped.append(name_of(source))
            print(f"flatnext: {printable(name_of(source))}: {printable(answer.reason)}: skipped", file=sys.stderr)
        else:
            yield name_of(source), answer
