"""`flatnext calibrate`: what answers with a guarantee need, for weights that have it not yet."""

from __future__ import annotations

import argparse

from flatnext.cli.flags import add_place_flags, data_dir, path

HELP = "calibrate trained weights on labelled images, for answers with a guarantee"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `calibrate`."""
    parser.usage = "flatnext calibrate MODEL (--test-set PATH | --split NAME) [options]"
    parser.add_argument(
        "model", type=path, metavar="MODEL", help="run folder, weights file, or a name of flatnext weights"
    )
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument(
        "--test-set",
        type=path,
        metavar="PATH",
        help="labelled images that the model was not trained on: a folder of CLASS/*, or an .npz file",
    )
    images.add_argument("--split", choices=["test", "validation"], help="such images of the model's own data set")
    parser.add_argument(
        "--images", type=int, metavar="N", help="calibrate on N of the images and check on the others (default: on all)"
    )
    parser.add_argument("--output", type=path, metavar="FILE", help="what to write (default: the weights file itself)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --output that is there")
    parser.add_argument("--checkpoint", choices=["last", "best"], help="checkpoint in a run folder (default last)")
    add_place_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Calibrate, and print what was found."""
    from flatnext.deploy.calibrate import calibrate, format_calibrated

    calibrated = calibrate(
        options.model,
        test_set=options.test_set,
        split=options.split,
        images=options.images,
        output=options.output,
        checkpoint=options.checkpoint,
        data_dir=data_dir(options, options.model),
        device=options.device,
        download=options.download,
        progress=True,
        overwrite=options.overwrite,
    )
    print(format_calibrated(calibrated))
    return 0
