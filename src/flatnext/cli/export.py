"""`flatnext export`: trained weights in a form that others run."""

from __future__ import annotations

import argparse

from flatnext.cli.flags import data_dir, path
from flatnext.errors import InputError
from flatnext.versions import import_extra

HELP = "export trained weights to ONNX, int8, torch.export or the Hub, proved on real images"

FORMS = ("onnx", "onnx-int8", "torch-export", "hub")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    parser.usage = "flatnext export WEIGHTS --to FORM [options]"
    parser.add_argument(
        "path",
        type=path,
        metavar="WEIGHTS",
        help="run folder, weights file of a run, or a name that `flatnext weights` lists",
    )
    parser.add_argument(
        "--to",
        choices=FORMS,
        required=True,
        help="form: onnx; onnx-int8, faster and a quarter as large; torch-export, a .pt2 file; hub, a folder for the "
        "Hugging Face Hub",
    )
    parser.add_argument(
        "--output",
        type=path,
        metavar="PATH",
        help="file or folder to write (default: NAME.onnx, NAME-int8.onnx, NAME.pt2 or NAME-hub here)",
    )
    parser.add_argument("--checkpoint", choices=["last", "best"], help="checkpoint in a run folder (default last)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file that is there")
    group = parser.add_argument_group("proof")
    group.add_argument(
        "--data-dir", type=path, metavar="DIR", help="data folder (default: the one of the run, or .data)"
    )
    group.add_argument(
        "--test-set", type=path, metavar="PATH", help="prove it on other images of the same classes: CLASS/* or arrays"
    )
    group.add_argument("--images", type=int, metavar="N", help="test images (default 1000; onnx-int8: 2000)")
    group.add_argument(
        "--max-loss", type=float, metavar="X", help="points of accuracy that onnx-int8 may lose (default 0.3)"
    )
    group.add_argument(
        "--download", action=argparse.BooleanOptionalAction, default=True, help="download missing data (default yes)"
    )
    hub = parser.add_argument_group("hub")
    hub.add_argument("--push", metavar="USER/NAME", help="upload the folder to the Hugging Face Hub")
    hub.add_argument("--private", action="store_true", help="make a new repository there private")


def run(options: argparse.Namespace) -> int:
    """Export, print what was measured, and push."""
    from flatnext.deploy.export import export, format_exported

    if options.private and options.push is None:
        raise InputError("private is for --push: leave it out")
    if options.push is not None:
        if options.to != "hub":
            raise InputError(f"push is for --to hub, and --to is {options.to}: leave it out")
        import_extra("huggingface_hub", "hub")
    exported = export(
        options.path,
        options.to,
        options.output,
        checkpoint=options.checkpoint,
        data_dir=data_dir(options, options.path),
        test_set=options.test_set,
        images=options.images,
        max_loss=options.max_loss,
        download=options.download,
        progress=True,
        overwrite=options.overwrite,
    )
    print(format_exported(exported))
    if options.push is not None:
        from flatnext.deploy.hub import push

        print(f"pushed to {push(exported.path, options.push, private=options.private)}")
    return 0
