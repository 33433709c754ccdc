"""`flatnext study`: recipes x seeds, and the study report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flatnext.cli.flags import (
    add_place_flags,
    add_setting_flags,
    add_track_flag,
    data_dir,
    data_name,
    data_overrides,
    known,
    number_or_auto,
    path,
    peek,
    require_data_dir_used,
    trackers,
)
from flatnext.cli.parser import Parser
from flatnext.cli.report import write
from flatnext.config import METHODS, RECIPES, Config, Model, default_recipes, named_model, recipe
from flatnext.errors import InputError
from flatnext.launch import rank_and_count
from flatnext.runs.config_file import is_config_file, named_or_in_file

if TYPE_CHECKING:
    from flatnext.study.ray_cluster import Cluster

HELP = "train several recipes with several seeds each, and write a report that compares them"


def add_arguments(parser: Parser) -> None:
    """Add the flags of `study`."""
    parser.description = (
        f"{parser.description} A setting that is not given is the recipe's, here in brackets after the names of the "
        "recipes; --recipes NAME NAME --help shows those of others."
    )
    parser.add_argument(
        "--recipes",
        nargs="+",
        action="extend",
        type=known(lambda name: is_config_file(name) or recipe(name)),
        metavar="NAME",
        help="recipes to compare, the baseline first (default sgd amp; with --dataset digits, quick quick-amp): "
        f"{', '.join(RECIPES)}; RECIPE+METHOD, such as quick+sam (flatnext recipes); or files with configs, such as "
        "the best.json of flatnext tune",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        action="extend",
        type=known(named_model),
        metavar="NAME",
        help="train each recipe with each of these models (flatnext models)",
    )
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="number of seeds (default 5)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N", help="first seed (default 0)")
    parser.add_argument(
        "--until-decided",
        action="store_true",
        help="begin with --seeds and add one at a time until every comparison has a verdict, by a sequential test that "
        "allows for a look after each; it never decides with fewer than 5",
    )
    parser.add_argument("--max-seeds", type=int, metavar="N", help="with --until-decided: the most seeds (default 20)")
    parser.add_argument(
        "--contrasts",
        nargs="+",
        action="extend",
        metavar="RECIPE:BASELINE",
        help="what to compare, such as amp:sgd amp:rmp (default: each method with plain SGD of the same epochs, and of "
        "the same passes where there is one)",
    )
    parser.add_argument(
        "--equal-compute",
        action="store_true",
        help="also train plain SGD with as many passes as the dearest method, as recipe sgd-2x",
    )
    parser.add_argument(
        "--jobs",
        type=number_or_auto,
        default="auto",
        metavar="N",
        help="so many runs at a time; auto measures once how many make the most images a second (default auto)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads of each run (default: its share of the cores)"
    )
    _add_cluster_flags(parser)
    parser.add_argument("--output", type=path, metavar="DIR", help="study folder (default studies/DATA)")
    parser.add_argument(
        "--overwrite", action="store_true", help="delete the runs that are there, and train everything anew"
    )
    add_place_flags(parser, of_run=False)
    add_track_flag(parser)
    methods = {name: recipe(name).method for name in METHODS}
    add_setting_flags(parser, without=["seed", "method"], defaults=_defaults(parser.typed), methods=methods)


def _add_cluster_flags(parser: Parser) -> None:
    parser.add_argument(
        "--runner",
        choices=("local", "ray"),
        default="local",
        help="what makes the runs: this machine, or a cluster of Ray, a task each with --threads CPUs (default local)",
    )
    group = parser.add_argument_group("with --runner ray")
    group.add_argument("--address", metavar="ADDRESS", help="the cluster: auto or HOST:PORT (default: this machine)")
    group.add_argument(
        "--storage",
        metavar="PATH|URL",
        help="where runs and checkpoints are kept, such as s3://bucket/study (fsspec); all nodes reach it (default: "
        "the study folder, which they share)",
    )
    group.add_argument(
        "--gpus", type=float, metavar="X", help="GPUs of each run, such as 0.5 (default 1 where the cluster has any)"
    )
    group.add_argument(
        "--retries", type=int, metavar="N", help="how often a run that was lost is made again (default 3)"
    )


def _defaults(typed: Sequence[str]) -> dict[str, Config]:
    """Return the recipes that would be compared, by name."""
    options = peek(typed, recipes="+", dataset=None)
    try:
        return {name: named_or_in_file(name) for name in options.recipes or default_recipes(options.dataset)}
    except InputError:  # said when it is parsed
        return {name: recipe(name) for name in default_recipes(None)}


def run(options: argparse.Namespace) -> int:
    """Train what is not finished, and write the report. Status 1: a run failed."""
    if rank_and_count()[1] > 1:
        raise InputError("a study runs in one process: use torchrun with train, then flatnext report")
    configs = _configs(options)
    output = options.output or Path("studies") / data_name(configs[0].data, data_dir(options))

    from flatnext.progress import ConsoleDisplay
    from flatnext.study.plan import make_plan, parse_contrasts
    from flatnext.study.runner import run_study
    from flatnext.study.until_decided import run_until_decided

    plan = make_plan(configs, options.seeds, options.first_seed, parse_contrasts(options.contrasts or ()))
    if options.max_seeds is not None and not options.until_decided:
        raise InputError("--max-seeds belongs to --until-decided: give both, or --seeds alone")
    if options.until_decided:
        plan = replace(plan, max_seeds=20 if options.max_seeds is None else options.max_seeds)
    failures = (run_until_decided if options.until_decided else run_study)(
        plan,
        output,
        data_dir=data_dir(options),
        device=options.device,
        download=options.download,
        overwrite=options.overwrite,
        display=ConsoleDisplay(),
        command=options.command_line,
        track=trackers(options),
        jobs=options.jobs,
        threads=options.threads,
        cluster=_cluster(options),
    )
    write([output], output)
    for failure in failures:
        print(f"flatnext: error: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _cluster(options: argparse.Namespace) -> Cluster | None:
    from flatnext.study.ray_cluster import Cluster

    names = ("address", "storage", "gpus", "retries")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.runner == "ray":
        return Cluster(**given)
    for name in given:
        raise InputError(f"--{name} belongs to --runner ray: give both, or leave it out")
    return None


def _configs(options: argparse.Namespace) -> list[Config]:
    from flatnext.study.plan import override_each, with_equal_compute, with_models

    overrides = data_overrides(options)
    names = options.recipes or default_recipes(overrides.get("dataset"))
    configs = override_each([named_or_in_file(name) for name in names], overrides)
    require_data_dir_used(options.data_dir, overrides, configs)
    if options.equal_compute:
        configs = with_equal_compute(configs)
    if not options.models:
        return configs
    if overrides.keys() & {field.name for field in fields(Model)} - {"parameter_budget"}:
        raise InputError("--models names whole models: leave --model and the settings of a model out")
    return with_models(configs, options.models)
