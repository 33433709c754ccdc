"""`flatnext verify`: an epoch of a run replayed, and compared to the bit."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from flatnext.cli.flags import add_place_flags, data_dir, path
from flatnext.words import counted

if TYPE_CHECKING:
    from flatnext.training.verify import Verified

HELP = "replay an epoch of a run from its checkpoints, and say whether it is the same to the bit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `verify`."""
    parser.usage = "flatnext verify RUN [options]"
    parser.add_argument(
        "run",
        type=path,
        metavar="RUN",
        help="folder of a run, which is only read; train with --keep-checkpoints for more than its first epoch",
    )
    parser.add_argument("--epoch", type=int, metavar="N", help="epoch to replay, from 1 (default: one by chance)")
    add_place_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Replay, and print the comparison. Status 1: the two differ."""
    from flatnext.progress import ConsoleDisplay
    from flatnext.training.verify import verify

    result = verify(
        options.run,
        epoch=options.epoch,
        data_dir=data_dir(options, options.run),
        device=options.device,
        download=options.download,
        display=ConsoleDisplay(),
    )
    print(format_verified(result))
    return 0 if result.same else 1


def format_verified(result: Verified) -> str:
    """Return what was replayed and how it compares, in lines."""
    from flatnext.training.bits import different
    from flatnext.training.verify import KEEP
    from flatnext.words import duration

    span, (first, last) = result.span, result.steps
    what = f"epoch {span.epoch}" if span.epoch else "between two checkpoints"
    start = span.start or "the beginning of the run"
    how = f"{counted(result.threads, 'thread')}, {result.precision}"
    lines = [f"replayed {what}, steps {first + 1:,} to {last:,}, from {start} in {duration(result.seconds)} ({how})"]
    if result.weights is None:
        lines.append(f"no checkpoint to compare weights with: the metrics alone were compared; {KEEP}")
    else:
        end = f"{span.end}{' and its optimizer' * result.optimizer}"
        same = f"the same to the bit: {counted(result.weights.tensors, 'tensor')} of {end}"
        lines.append(f"{different(result.weights)}, from {end}" if result.weights.differing else same)
    if result.metrics is not None:
        names = ", ".join(result.metrics)
        lines.append(f"metrics that differ: {names}" if names else "the same to the bit: the metrics of the epoch")
    if not result.same:
        lines.append(f"circumstances that differ: {'; '.join(result.circumstances) or 'none that are noted'}")
    return "\n".join(lines)
