"""`flatnext tune`: a search for settings of a recipe."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from flatnext.cli.flags import (
    DATA_DIR,
    add_place_flags,
    add_setting_flags,
    data_dir,
    data_name,
    data_overrides,
    known,
    path,
    peek,
    require_data_dir_used,
)
from flatnext.cli.parser import Parser
from flatnext.config import METHODS, RECIPES, Config, default_recipes, recipe
from flatnext.errors import InputError
from flatnext.launch import rank_and_count

if TYPE_CHECKING:
    from flatnext.study.tuning import Found

HELP = "search for settings of a recipe by validation accuracy (Optuna)"

SHOWN = 10
"""Trials that the table on the terminal has."""


def add_arguments(parser: Parser) -> None:
    """Add the flags of `tune`."""
    parser.usage = "flatnext tune RECIPE --vary NAME=VALUES [--vary NAME=VALUES ...] [options]"
    parser.description = (
        f"{parser.description} Each trial is trained with several seeds; the test set is not looked at. The same "
        "command goes on with a search that was stopped, and shares the trials with others of its kind that run."
    )
    parser.add_argument(
        "recipe",
        type=known(recipe),
        metavar="RECIPE",
        help=f"recipe to start from: {', '.join(RECIPES)}; or RECIPE+METHOD, such as quick+sam (flatnext recipes)",
    )
    parser.add_argument(
        "--vary",
        action="append",
        required=True,
        metavar="NAME=VALUES",
        help="a setting to vary, by the name of its flag, over LOW..HIGH, log:LOW..HIGH (even in its logarithm), "
        "int:LOW..HIGH (whole numbers) or A,B,C; once for each setting: --vary epsilon=log:0.005..0.5",
    )
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="trials in all (default 20)")
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="seeds of each trial, at least 2 (default 2)")
    parser.add_argument(
        "--first-seed",
        type=int,
        default=100,
        metavar="N",
        help="first seed (default 100, so that a study of the result has seeds that chose nothing)",
    )
    parser.add_argument(
        "--pruner",
        choices=("median", "hyperband", "none"),
        default="median",
        help="what ends hopeless trials, within the run of their first seed or after a seed: the median of those that "
        "have finished, Hyperband, or nothing (default median)",
    )
    parser.add_argument("--output", type=path, metavar="DIR", help="folder (default tuning/DATA-RECIPE)")
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="database of the trials, such as postgresql://host/name (default: tune.db in the folder, by SQLite)",
    )
    add_place_flags(parser, of_run=False)
    methods = {name: recipe(name).method for name in METHODS}
    add_setting_flags(parser, without=["seed"], defaults=_defaults(parser), methods=methods)


def _defaults(parser: Parser) -> dict[str, Config]:
    typed = peek(parser.typed, dataset=None)
    names = [word for word in parser.typed if word in RECIPES] or default_recipes(typed.dataset)
    return {names[0]: recipe(names[0])}


def run(options: argparse.Namespace) -> int:
    """Run the trials that are left, and write the best config and the page. Status 1: no trial has finished."""
    if rank_and_count()[1] > 1:
        raise InputError("a search runs in one process: start the same command several times instead of torchrun")
    from flatnext.study.search_space import parse_space

    overrides = data_overrides(options)
    config = recipe(options.recipe).override(overrides)
    require_data_dir_used(options.data_dir, overrides, [config])
    space = parse_space(config, options.vary)
    output = options.output or Path("tuning") / f"{data_name(config.data, data_dir(options))}-{config.recipe}"

    from flatnext.files import write_atomically, write_json
    from flatnext.progress import ConsoleDisplay, printable
    from flatnext.report.tuning_page import tuning_page
    from flatnext.study.tuning import Search, as_file, tune

    seeds = tuple(range(options.first_seed, options.first_seed + options.seeds))
    found = tune(
        Search(space=space, trials=options.trials, seeds=seeds, pruner=options.pruner),
        output,
        storage=options.storage,
        data_dir=data_dir(options),
        device=options.device,
        download=options.download,
        display=ConsoleDisplay(),
        command=options.command_line,
    )
    commands = _commands(found, output, data_dir(options)) if found.ranked else ()
    if found.ranked:
        write_json(output / "best.json", as_file(found.config()))
    write_atomically(output / "tune.html", tuning_page(found, commands))
    lines = [*_table(found), "", *commands] if found.ranked else [f"no trial has finished{found.reason}"]
    print("\n".join(map(printable, [*lines, str(output / "tune.html")])))
    return 0 if found.ranked else 1


def _table(found: Found) -> list[str]:
    """Return the best trials as columns, and a line on the others."""
    from flatnext.report.tuning_page import header, others, row

    rows = [header(found), *(row(found.search, trial) for trial in found.ranked[:SHOWN])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)) for cells in rows]
    return [*lines, *filter(None, [others(found)])]


def _commands(found: Found, output: Path, data: Path) -> tuple[str, ...]:
    """Return what to type to train the best config, and to study it with seeds that have chosen nothing."""
    from flatnext.study.tuning import study_command

    place = [] if data == DATA_DIR else ["--data-dir", str(data)]
    train = ["flatnext", "train", "--config", str(output / "best.json")]
    return shlex.join(train + place), shlex.join(study_command(found.config()) + place)
