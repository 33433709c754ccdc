"""`flatnext data`: a data set, checked and described."""

from __future__ import annotations

import argparse

from flatnext.cli.flags import add_place_flags, add_setting_flags, data_dir, data_overrides, path
from flatnext.config import Config
from flatnext.files import require_new

HELP = "download, check and describe a data set"

# What a picture of samples does not show.
NOT_SHOWN = ("early_sizes", "mixup", "cutmix", "train_images", "validation", "calibration", "split_seed", "sampler")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `data`."""
    parser.add_argument(
        "--samples", type=path, metavar="FILE", help="write a picture of sample images, plain and augmented"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the picture that is there")
    add_place_flags(parser, of_run=False)
    add_setting_flags(parser, "data", without=NOT_SHOWN)


def run(options: argparse.Namespace) -> int:
    """Print the description, and write the samples."""
    settings = Config().override(data_overrides(options)).data
    folder = data_dir(options)
    if options.samples:
        require_new(options.samples, overwrite=options.overwrite)

    from flatnext import data

    dataset = data.load_by(settings, folder, download=options.download, progress=True)
    print(data.describe(dataset, folder))
    if options.samples:
        data.sample_grid(dataset, settings, options.samples)
        print(options.samples)
    return 0
