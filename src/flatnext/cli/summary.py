"""`flatnext summary`: a model layer by layer."""

from __future__ import annotations

import argparse

from flatnext.cli.flags import add_setting_flags, setting_overrides
from flatnext.config import Config
from flatnext.errors import InputError

HELP = "print a model layer by layer, with its parameters and memory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `summary`."""
    parser.add_argument(
        "--table1", action="store_true", help="print Table 1 of the baseline paper instead: ResNet-50 and ResNeXt-50"
    )
    parser.add_argument("--classes", type=int, metavar="N", help="number of classes (default 10)")
    parser.add_argument("--image-size", type=int, metavar="N", help="pixels a side (default 32)")
    add_setting_flags(parser, "model", without=["parameter_budget"])


def run(options: argparse.Namespace) -> int:
    """Print the table."""
    overrides = setting_overrides(vars(options))
    settings = Config().override({**overrides, "parameter_budget": 2**53}).model

    import torch

    from flatnext import models

    if options.table1:
        if overrides or options.classes is not None or options.image_size is not None:
            raise InputError("--table1 shows two models of its own: leave the settings of a model out")
        print(models.table1())
        return 0
    with torch.device("meta"):  # nothing is allocated, so that any size can be asked for
        model = models.build(settings, 10 if options.classes is None else options.classes)
    size = 32 if options.image_size is None else options.image_size
    try:
        print(models.format_summary(models.summarize(model, size)))
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        raise InputError(f"image_size is {size}: torch has no tensors so large: give a smaller one") from error
    return 0
