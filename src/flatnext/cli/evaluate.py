"""`flatnext evaluate`: loss and accuracy of trained weights."""

from __future__ import annotations

import argparse
import json
import shlex
from typing import Any

from flatnext.cli.flags import add_place_flags, add_setting_flags, data_dir, path, setting_overrides
from flatnext.progress import printable
from flatnext.runs.class_balance import balanced_accuracy, f1_scores, is_uneven
from flatnext.runs.scores import Confusion
from flatnext.words import counted

HELP = "compute loss and accuracy of trained weights"

# Settings of the data that only training uses.
TRAINING_ONLY = ("calibration", "early_sizes", "mixup", "cutmix", "crop_padding", "flip", "augment", "cutout")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `evaluate`."""
    parser.usage = "flatnext evaluate PATH|NAME [options]"
    add_weights_arguments(parser)
    parser.add_argument(
        "--split", choices=["test", "validation", "train"], default="test", help="images to score (default test)"
    )
    parser.add_argument(
        "--test-set",
        type=path,
        metavar="PATH",
        help="score other images of the same classes instead: a folder of CLASS/*.png, an .npz file, or the .npy "
        "files of CIFAR-10.1",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with the confusion matrix")
    parser.add_argument("--parts", nargs="*", action=_MovedToEvidence, help=argparse.SUPPRESS)
    add_place_flags(parser)
    add_setting_flags(parser, "data", "model", without=TRAINING_ONLY, defaults=None)


def add_weights_arguments(parser: argparse.ArgumentParser, besides: str = "") -> None:
    """Add the arguments that name the weights and the precision, which `evidence` has too; `besides` ends a help."""
    parser.add_argument(
        "path",
        type=path,
        metavar="PATH|NAME",
        help="run folder; weights file (of a run, or a checkpoint of the baseline paper's code); or a name that "
        f"`flatnext weights` lists{besides}",
    )
    parser.add_argument("--checkpoint", choices=["last", "best"], help="checkpoint in a run folder (default last)")
    parser.add_argument(
        "--precision",
        choices=["auto", "bf16", "fp32", "fp64"],
        help="precision (default: that of the run, where auto is chosen for this device)",
    )


def overrides_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that replace those of the weights."""
    return setting_overrides(vars(options)) | ({"precision": options.precision} if options.precision else {})


def run(options: argparse.Namespace) -> int:
    """Print the scores."""
    from flatnext.evaluation import evaluate

    scores = evaluate(
        options.path,
        checkpoint=options.checkpoint,
        split=options.split,
        test_set=options.test_set,
        data_dir=data_dir(options, options.path),
        device=options.device,
        download=options.download,
        progress=True,
        overrides=overrides_of(options),
    )
    print(json.dumps(scores) if options.json else format_scores(scores))
    return 0


def format_scores(scores: dict[str, Any]) -> str:
    """Return the scores as text, with the accuracy of each class."""
    loss = "not finite" if scores["loss"] is None else format(scores["loss"], ".4f")
    confusion, balanced, f1 = Confusion.of(scores["confusion"]), "", None
    if is_uneven(confusion):  # then a high accuracy may hide a class that is never found
        balanced, f1 = f"balanced accuracy {balanced_accuracy(confusion):.2%}, ", f1_scores(confusion)
    images = counted(scores["count"], f"{scores['split']} image")
    lines = [
        f"{printable(scores['weights'])} on {images} ({scores['precision']})",
        f"{balanced}accuracy {scores['accuracy']:.2%}, loss {loss}",
    ]
    if scores["not_finite"]:
        lines.append(
            f"the outputs for {counted(scores['not_finite'], 'image')} are not finite, and count as wrong: the "
            "training diverged; choose another --checkpoint, or train again with a lower --lr"
        )
    for index, (name, row) in enumerate(zip(scores["classes"], scores["confusion"], strict=True)):
        score = f", F1 {f1[index]:.2%}" if f1 and f1[index] is not None else ""
        lines.append(f"  {printable(name):<16} {row[index] / max(sum(row), 1):8.2%} of {sum(row):,}{score}")
    return "\n".join(lines)


class _MovedToEvidence(argparse.Action):
    """Answers `--parts`, which version 0.1.0 had, with the command that does this now."""

    def __call__(self, parser: argparse.ArgumentParser, options: argparse.Namespace, values: Any, *_: Any) -> None:
        path = shlex.quote(str(getattr(options, "path", None) or "PATH"))
        parser.error(f"--parts is a command of its own now: flatnext evidence {path} --measurements {' '.join(values)}")
