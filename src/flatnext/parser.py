"""The grammar of the command line: what each verb takes. `flatnext.cli` does what it asks for."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, NoReturn

from flatnext.bench.plan import add_bench_flags
from flatnext.config import RECIPES
from flatnext.evidence.plan import add_evidence_flags
from flatnext.flags import add_setting_flags

RECIPE_NAMES = ", ".join(RECIPES)
NOT_SHOWN = ("early_sizes", "mixup", "cutmix")  # of the settings of the data, in a picture of samples
TRAINING_ONLY = (*NOT_SHOWN, "crop_padding", "flip", "augment", "cutout")

# What users of other libraries try first.
HINTS = {
    "--amp": "AMP is adversarial model perturbation here, by --method amp; mixed precision is --precision bf16",
    "--fp16": "give --precision bf16",
    "--learning-rate": "give --lr",
    "--workers": "leave it out: the data lie on the device",
    "--num-workers": "leave it out: the data lie on the device",
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and takes no abbreviations: a script would break when a flag is added."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in a line, and end with status 2."""
        hints = [hint for flag, hint in HINTS.items() if message.startswith(f"unrecognized arguments: {flag}")]
        message = ": ".join([message, *hints[-1:]])
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n" if first_process() else None)


def first_process() -> bool:
    """Return whether this process is the one that speaks."""
    return os.environ.get("RANK", "0") == "0"


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; `verb` of what it returns names the verb."""
    parser = _Parser(
        prog="flatnext", description="Train small image classifiers into flat minima, and know if it helped."
    )
    parser.add_argument("--version", action=_Version)
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB", dest="verb")

    def verb(name: str, help: str, positional: str = "") -> argparse.ArgumentParser:
        usage = f"flatnext {name} {positional}[options]"
        return verbs.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", usage=usage)

    _study(verb("study", "train recipes x seeds and write a report with statistics"))
    _train(verb("train", "train one model and leave a run folder"))
    _evaluate(verb("evaluate", "score weights, or gather the evidence for a report", "PATH|NAME "))
    _report(verb("report", "rebuild report.html and report.md from runs on disk", "DIR [DIR ...] "))
    add_bench_flags(verb("bench", "measure speed and memory beside the report's way to train"))
    _summary(verb("summary", "the model layer by layer (the report's Figure 2)"))
    verb("weights", "list the weights that come with the package")
    _pack(verb("pack", "make a small weights file and a model card from a finished run", "RUN --name NAME "))
    _data(verb("data", "fetch, check and show a data set"))
    return parser


def _study(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipes", nargs="+", metavar="NAME", help=f"recipes to compare, plain SGD first ({RECIPE_NAMES})"
    )
    parser.add_argument(
        "--models", nargs="+", metavar="NAME", help="compare these models under each recipe: docs/models.md"
    )
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="number of seeds (default 5)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N", help="the first of them (default 0)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="study folder (default studies/DATASET)")
    parser.add_argument("--overwrite", action="store_true", help="run all anew, also what is finished")
    _add_places(parser)
    add_setting_flags(parser, without=["seed", "method"])


def _train(parser: argparse.ArgumentParser) -> None:
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--recipe",
        choices=RECIPES,
        default=None,
        metavar="NAME",
        help=f"where to start from (default sgd, with digits quick): {RECIPE_NAMES}",
    )
    start.add_argument("--config", type=Path, metavar="FILE", help="start from the config.json of another run")
    start.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run in this folder")
    parser.add_argument("--output", type=Path, metavar="DIR", help="run folder (default runs/RECIPE-seed-SEED)")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that the folder holds")
    _add_places(parser)
    add_setting_flags(parser)


def _evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        type=Path,
        metavar="PATH|NAME",
        help="run folder, weights file (also the report's checkpoints), or, where no such path is, a name that "
        "`flatnext weights` lists; with --parts also a study",
    )
    parser.add_argument("--checkpoint", choices=["last", "best"], help="which, in a run folder (default last)")
    parser.add_argument("--split", choices=["test", "validation", "train"], help="images to score (default test)")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32", "fp64"], help="default: the run's setting")
    parser.add_argument("--json", action="store_true", help="print JSON, with the confusion matrix")
    parser.add_argument(
        "--test-set",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="instead of a split, or with --parts beside them, these images of the same classes: a folder with "
        "CLASS/*.png, an .npz, or CIFAR-10.1's .npy files",
    )
    add_evidence_flags(parser)
    _add_places(parser)
    add_setting_flags(parser, "data", "model", without=TRAINING_ONLY)


def _report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="study or run folders")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write (default: the first folder)")


def _summary(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--table1", action="store_true", help="the report's Table 1 instead: ResNet-50, ResNeXt-50")
    add_setting_flags(parser, "model", without=["parameter_budget"])
    parser.add_argument("--classes", type=int, default=10, metavar="N", help="number of classes (default 10)")
    parser.add_argument("--image-size", type=int, default=32, metavar="N", help="pixels a side (default 32)")


def _pack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--name", required=True, metavar="NAME", help="MODEL-DATASET-VARIANT, as resnext29-cifar10-cpu")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where to write (default: in a clone of this repository the package's own weights, else ./weights)",
    )
    parser.add_argument("--checkpoint", choices=["last", "best"], default="last", help="of the run (default last)")
    parser.add_argument("--overwrite", action="store_true", help="replace what has this name")
    _add_places(parser)


def _data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=Path, metavar="FILE", help="write a picture of samples, plain and augmented")
    _add_places(parser)
    add_setting_flags(parser, "data", without=["train_images", "validation", "split_seed", *NOT_SHOWN])


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, help="print the version", **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from flatnext.versions import version_of

        print(f"flatnext {version_of('flatnext')}")
        parser.exit(0)


def _add_places(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("places")
    group.add_argument("--data-dir", type=Path, metavar="DIR", help="data folder (default: that of the run, or .data)")
    group.add_argument("--download", action=argparse.BooleanOptionalAction, default=True, help="fetch missing data")
    group.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 ... (default auto)")
