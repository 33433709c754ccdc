"""`flatnext pack`: a finished run as a weights file and a model card."""

from __future__ import annotations

import argparse

from flatnext.cli.flags import add_place_flags, data_dir, path

HELP = "turn a finished run into a small weights file with a model card"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pack`."""
    parser.usage = "flatnext pack RUN --name NAME [options]"
    parser.add_argument("folder", type=path, metavar="RUN", help="run folder")
    parser.add_argument(
        "--name", required=True, metavar="NAME", help="MODEL-DATASET-VARIANT, such as resnext29-cifar10-cpu"
    )
    parser.add_argument(
        "--output",
        type=path,
        metavar="DIR",
        help="where to write (default: ./weights; in a clone of the repository, the package's own weights)",
    )
    parser.add_argument("--checkpoint", choices=["last", "best"], default="last", help="checkpoint (default last)")
    parser.add_argument(
        "--licence", "--license", metavar="ID", help="licence of the weights for the card, as the Hub calls it: mit ..."
    )
    parser.add_argument("--overwrite", action="store_true", help="replace weights of the same name")
    add_place_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Write the files, and print what they are."""
    from flatnext.deploy.pack import format_packed, pack

    packed = pack(
        options.folder,
        options.name,
        options.output,
        checkpoint=options.checkpoint,
        data_dir=data_dir(options, options.folder),
        device=options.device,
        download=options.download,
        progress=True,
        overwrite=options.overwrite,
        licence=options.licence,
    )
    print(format_packed(packed))
    return 0
