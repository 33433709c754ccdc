"""`flatnext export`: trained weights in a form that others run."""

from __future__ import annotations

import argparse

from flatnext.cli.flags import data_dir, path

HELP = "export trained weights to ONNX, proved on real images"

FORMS = ("onnx",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    parser.usage = "flatnext export WEIGHTS --to FORM [options]"
    parser.add_argument(
        "path",
        type=path,
        metavar="WEIGHTS",
        help="run folder, weights file of a run, or a name that `flatnext weights` lists",
    )
    parser.add_argument("--to", choices=FORMS, required=True, help="form")
    parser.add_argument("--output", type=path, metavar="PATH", help="what to write (default: NAME.onnx here)")
    parser.add_argument("--checkpoint", choices=["last", "best"], help="checkpoint in a run folder (default last)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file that is there")
    group = parser.add_argument_group("proof")
    group.add_argument(
        "--data-dir", type=path, metavar="DIR", help="data folder (default: the one of the run, or .data)"
    )
    group.add_argument(
        "--test-set", type=path, metavar="PATH", help="prove it on other images of the same classes: CLASS/* or arrays"
    )
    group.add_argument("--images", type=int, default=1000, metavar="N", help="test images (default 1000)")
    group.add_argument(
        "--download", action=argparse.BooleanOptionalAction, default=True, help="download missing data (default yes)"
    )


def run(options: argparse.Namespace) -> int:
    """Export, and print what was measured."""
    from flatnext.deploy.export import export, format_exported

    exported = export(
        options.path,
        options.to,
        options.output,
        checkpoint=options.checkpoint,
        data_dir=data_dir(options, options.path),
        test_set=options.test_set,
        images=options.images,
        download=options.download,
        progress=True,
        overwrite=options.overwrite,
    )
    print(format_exported(exported))
    return 0
