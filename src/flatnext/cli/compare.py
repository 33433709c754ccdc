"""`flatnext compare`: two models on the same images."""

from __future__ import annotations

import argparse
import json

from flatnext.cli.flags import add_place_flags, data_dir, path
from flatnext.errors import InputError
from flatnext.files import require_new, write_output

HELP = "compare two trained models on the same images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `compare`."""
    parser.usage = "flatnext compare OLD NEW [options]"
    for name in ("old", "new"):
        parser.add_argument(
            name,
            type=path,
            metavar=name.upper(),
            help="run folder, weights file, .onnx file, or a name of flatnext weights",
        )
    parser.add_argument(
        "--test-set",
        type=path,
        metavar="PATH",
        help="labelled images: a folder of CLASS/*, an .npz file, or .npy files",
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="instead, the test images of cifar10, cifar100, digits or folder (default: what OLD was trained for)",
    )
    parser.add_argument("--output", type=path, metavar="FILE", help="write a page with the images that changed: .html")
    parser.add_argument("--overwrite", action="store_true", help="replace the page that is there")
    parser.add_argument("--format", choices=["text", "json"], default="text", help="what to print (default text)")
    parser.add_argument(
        "--fail-if-worse",
        type=float,
        metavar="POINTS",
        help="exit with status 1 if the new model's accuracy on these images is lower by more than so many points",
    )
    add_place_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Print the comparison, write the page, and return 1 if the new model is worse by more than was allowed."""
    limit, output = options.fail_if_worse, options.output
    if limit is not None and not 0 <= limit <= 100:
        raise InputError(f"fail_if_worse is {limit}: give percentage points from 0 to 100")
    if output is not None:
        require_new(output, overwrite=options.overwrite)

    from flatnext.deploy.compare import compare
    from flatnext.deploy.comparison_page import as_json, comparison_page, sentences
    from flatnext.progress import ConsoleDisplay, printable

    compared = compare(
        options.old,
        options.new,
        test_set=options.test_set,
        dataset=options.dataset,
        data_dir=data_dir(options, options.old),
        device=options.device,
        download=options.download,
        display=ConsoleDisplay(),
    )
    comparison = compared.comparison
    if output is not None:
        write_output(output, comparison_page(compared))
    if options.format == "json":
        print(json.dumps(as_json(comparison)))
    else:
        print("\n".join(map(printable, sentences(comparison))))
        if output is not None:
            print(printable(f"The images that changed are in {output}."))
    # In images and not in fractions, which are rounded: so many points are that many images.
    changes = comparison.changes
    failed = limit is not None and 100 * (changes.old_correct - changes.new_correct) > limit * changes.count
    return 1 if failed else 0
