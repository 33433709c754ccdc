"""`flatnext train`: one model."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from flatnext.cli.flags import ABOUT_DEFAULTS, add_place_flags, add_setting_flags, data_dir, setting_overrides
from flatnext.cli.parser import is_first_process
from flatnext.config import RECIPES, Config, recipe
from flatnext.errors import InputError
from flatnext.runs.records import CheckpointScores

HELP = "train one model and write a run folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `train`."""
    parser.description = f"{parser.description} {ABOUT_DEFAULTS}"
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--recipe",
        choices=RECIPES,
        metavar="NAME",
        help=f"recipe to start from (default sgd; with --dataset digits, quick): {', '.join(RECIPES)}",
    )
    start.add_argument("--config", type=Path, metavar="FILE", help="start from the config.json of another run")
    start.add_argument("--resume", type=Path, metavar="DIR", help="continue the run in this folder")
    parser.add_argument("--output", type=Path, metavar="DIR", help="run folder (default runs/RECIPE-seed-SEED)")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that is in the folder")
    add_place_flags(parser)
    add_setting_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Train, and print the scores and the folder."""
    config, output = config_and_folder(options)

    from flatnext.progress import ConsoleDisplay
    from flatnext.training import train

    result = train(
        config,
        output,
        data_dir=data_dir(options, options.resume),
        device=options.device,
        download=options.download,
        resume=options.resume is not None,
        overwrite=options.overwrite,
        display=ConsoleDisplay(),
        command=options.command_line,
    )
    if is_first_process():
        for name, checkpoint in (("last", result.last), ("best", result.best)):
            if checkpoint is not None:
                print(_format_scores(name, checkpoint))
        print(output)
    return 0


def config_and_folder(options: argparse.Namespace) -> tuple[Config, Path]:
    """Return the config and the run folder that the flags ask for."""
    from flatnext.runs.reading import read_config

    overrides = setting_overrides(vars(options))
    if options.resume is not None:
        if overrides or options.output or options.overwrite:
            raise InputError("--resume takes its settings from the run: leave settings, --output and --overwrite out")
        return read_config(options.resume / "config.json"), options.resume
    name = options.recipe or ("quick" if overrides.get("dataset") == "digits" else "sgd")
    config = recipe(name) if options.config is None else read_config(options.config)
    config = config.override(overrides)
    return config, options.output or Path("runs") / f"{config.recipe}-seed-{config.seed}"


def _format_scores(name: str, checkpoint: CheckpointScores) -> str:
    loss = math.nan if checkpoint.test.loss is None else checkpoint.test.loss
    return f"{name} (epoch {checkpoint.epoch}): test accuracy {checkpoint.test.accuracy:.2%}, loss {loss:.4f}"
