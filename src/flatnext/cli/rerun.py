"""`flatnext rerun`: a finished run made again, and compared."""

from __future__ import annotations

import argparse

from flatnext.cli.flags import add_place_flags, data_dir, path
from flatnext.words import counted

HELP = "make a finished run again, and say whether it is the same to the bit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rerun`."""
    parser.usage = "flatnext rerun RUN [options]"
    parser.add_argument("run", type=path, metavar="RUN", help="folder of a finished run, which is only read")
    parser.add_argument("--output", type=path, metavar="DIR", help="folder of the new run (default RUN-rerun)")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that is there")
    add_place_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Train, compare, and print the comparison. Status 1: the two differ."""
    from flatnext.progress import ConsoleDisplay
    from flatnext.training.bits import different
    from flatnext.training.rerun import rerun

    result = rerun(
        options.run,
        options.output,
        data_dir=data_dir(options, options.run),
        device=options.device,
        download=options.download,
        overwrite=options.overwrite,
        display=ConsoleDisplay(),
    )
    old, new = result.accuracies
    if result.same:
        print(
            f"the same to the bit: {counted(result.weights.tensors, 'tensor')}, the metrics of all epochs; "
            f"test accuracy {new:.2%}"
        )
        print(result.folder)
        return 0
    print(different(result.weights))
    print(f"epochs with other metrics: {', '.join(map(str, result.epochs)) or 'none'}")
    print(f"test accuracy {new:.2%} instead of {old:.2%}")
    print(f"circumstances that differ: {'; '.join(result.circumstances) or 'none that are noted'}")
    print(result.folder)
    return 1
