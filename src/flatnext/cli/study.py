"""`flatnext study`: recipes x seeds, and the study report."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path

from flatnext.cli.flags import ABOUT_DEFAULTS, add_place_flags, add_setting_flags, data_dir, setting_overrides
from flatnext.cli.report import write
from flatnext.config import RECIPES, Config, Model, recipe
from flatnext.errors import InputError

HELP = "train several recipes with several seeds each, and write a report that compares them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `study`."""
    parser.description = f"{parser.description} {ABOUT_DEFAULTS}"
    parser.add_argument(
        "--recipes",
        nargs="+",
        metavar="NAME",
        help="recipes to compare, the baseline first (default sgd amp; with --dataset digits, quick quick-amp): "
        + ", ".join(RECIPES),
    )
    parser.add_argument(
        "--models", nargs="+", metavar="NAME", help="train each recipe with each of these models (docs/models.md)"
    )
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="number of seeds (default 5)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N", help="first seed (default 0)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="study folder (default studies/DATASET)")
    parser.add_argument("--overwrite", action="store_true", help="train everything again, also finished runs")
    add_place_flags(parser)
    add_setting_flags(parser, without=["seed", "method"])


def run(options: argparse.Namespace) -> int:
    """Train what is not finished, and write the report. Status 1: a run failed."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("a study runs in one process: use torchrun with train, then flatnext report")
    configs = _configs(options)
    output = options.output or Path("studies") / configs[0].data.dataset

    from flatnext.progress import ConsoleDisplay
    from flatnext.study.plan import make_plan
    from flatnext.study.runner import run_study

    failures = run_study(
        make_plan(configs, options.seeds, options.first_seed),
        output,
        data_dir=data_dir(options),
        device=options.device,
        download=options.download,
        overwrite=options.overwrite,
        display=ConsoleDisplay(),
        command=options.command_line,
    )
    write([output], output)
    for failure in failures:
        print(f"flatnext: error: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _configs(options: argparse.Namespace) -> list[Config]:
    from flatnext.study.plan import override_each, with_models

    overrides = setting_overrides(vars(options))
    pair = ["quick", "quick-amp"] if overrides.get("dataset") == "digits" else ["sgd", "amp"]
    configs = override_each([recipe(name) for name in options.recipes or pair], overrides)
    if not options.models:
        return configs
    if overrides.keys() & {field.name for field in fields(Model)} - {"parameter_budget"}:
        raise InputError("--models names whole models: leave --model and the settings of a model out")
    return with_models(configs, options.models)
