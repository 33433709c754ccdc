"""`flatnext bench`: speed and memory of this project beside the code of the baseline paper."""

from __future__ import annotations

import argparse
from typing import Any

from flatnext.bench.plan import METHODS, ON_THE_MODEL, PARTS, BenchPlan
from flatnext.cli.flags import add_flags_of, add_setting_flags, given, path, setting_overrides
from flatnext.config import RECIPES, Config
from flatnext.config.setting import require

HELP = "measure speed and memory, in comparison with the baseline paper's code"

# A flag, and the parts in which it changes something.
USED_BY = {
    "rounds": ("training", "inference", "startup", "convolution"),
    "steps": ("training",),
    "methods": ("training",),
    "recipes": ("training",),
    "data_dir": ("startup",),
    **dict.fromkeys(("batch_size", "image_size", "precision", "model"), ON_THE_MODEL),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `bench`. Flags of the plan that are not given are absent when parsed."""

    def names(flag: str, help: str, **options: Any) -> None:
        parser.add_argument(flag, nargs="+", action="extend", default=argparse.SUPPRESS, help=help, **options)

    names("--parts", "what to measure (default training inference memory)", choices=PARTS)
    names("--methods", "methods to train with besides sgd (default: all)", choices=METHODS, metavar="NAME")
    names("--recipes", "recipes to train with as well, at the same size", choices=RECIPES, metavar="NAME")
    add_flags_of(BenchPlan, parser)
    parser.add_argument("--json", type=path, metavar="FILE", help="write all measurements to this file")
    add_setting_flags(parser, "model", without=["parameter_budget"])


def run(options: argparse.Namespace) -> int:
    """Measure, and print the tables."""
    plan = plan_of(options)

    from flatnext.bench.benchmark import check_writable, run_bench
    from flatnext.bench.table import format_bench
    from flatnext.files import write_json
    from flatnext.progress import ConsoleDisplay

    if options.json:
        check_writable(options.json)
    result = run_bench(plan, say=ConsoleDisplay().say, command=options.command_line)
    print(format_bench(result))
    if options.json:
        write_json(options.json, result)
    return 0


def plan_of(options: argparse.Namespace) -> BenchPlan:
    """Return the plan that the flags ask for. `InputError` for a flag that none of its parts would use."""
    settings = given(BenchPlan, options)
    settings.pop("model", None)  # a name here, of which the other settings change parts
    shape = setting_overrides(vars(options))
    if shape:
        settings["model"] = Config().override({**shape, "parameter_budget": 2**53}).model
    plan = BenchPlan(**settings)
    for name, parts in USED_BY.items():
        require(
            name not in settings or bool(set(parts) & set(plan.parts)),
            f"{name} is of no use to {' and '.join(plan.parts)}: leave it out, or add {' or '.join(parts)} to --parts",
        )
    return plan
