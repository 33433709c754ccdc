"""`flatnext train`: one model."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

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
    require_no_pictures,
    setting_overrides,
    trackers,
)
from flatnext.cli.parser import Parser
from flatnext.config import METHODS, RECIPES, Config, Model, as_new_run, default_recipes, folder_name, recipe
from flatnext.errors import InputError
from flatnext.launch import is_first
from flatnext.progress import printable
from flatnext.runs.class_balance import balanced_accuracy, f1_scores, is_uneven
from flatnext.runs.records import CheckpointScores
from flatnext.words import counted

MOST_SHOWN = 20
"""Classes whose F1 is printed: those with the lowest."""

HELP = "train one model and write a run folder"


def add_arguments(parser: Parser) -> None:
    """Add the flags of `train`."""
    defaults = _defaults(parser.typed)
    if defaults:
        parser.description = (
            f"{parser.description} A setting that is not given is the recipe's, here in brackets after the name of the "
            "recipe; --recipe NAME --help shows those of another."
        )
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--recipe",
        type=known(recipe),
        metavar="NAME",
        help=f"recipe to start from (default sgd; with --dataset digits, quick): {', '.join(RECIPES)}; or "
        "RECIPE+METHOD, such as quick+sam (flatnext recipes)",
    )
    start.add_argument(
        "--config",
        type=path,
        metavar="FILE",
        help="start from the config.json of another run, or from a file of yours with a recipe and what to change of "
        'it, in JSON, YAML or TOML: {"recipe": "amp", "epochs": 50, "method": {"epsilon": 0.1}}',
    )
    start.add_argument(
        "--like",
        type=path,
        metavar="STUDY",
        help="train the recipe that the study in this folder advises, on all of its images: none are held out",
    )
    start.add_argument(
        "--resume", type=path, metavar="DIR", help="continue the run in this folder; with --epochs N, beyond its end"
    )
    parser.add_argument(
        "--output",
        type=path,
        metavar="DIR",
        help="run folder (default runs/DATA-MODEL-RECIPE-seed-SEED, with what differs from the recipe)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the run that is in the folder")
    add_place_flags(parser)
    add_track_flag(parser)
    parser.add_argument(
        "--threads",
        type=number_or_auto,
        default="auto",
        metavar="N",
        help="threads on a CPU (default auto: OMP_NUM_THREADS where that is set, else as many as a run that is resumed "
        "had, else what is measured to be the fastest beside what else the machine does)",
    )
    parser.add_argument(
        "--keep-checkpoints",
        type=_number_or_all,
        metavar="N",
        help="keep the checkpoints of the last N epochs, or all, for flatnext verify (default 0; resumed: as before)",
    )
    parser.add_argument(
        "--on-divergence",
        choices=["stop", "rollback"],
        help="where the loss is not finite: stop, or go back to the beginning of the epoch and on with half the "
        "learning rate, at most three times (default stop; resumed: as before)",
    )
    methods = {f"--method {name}": kind() for name, kind in METHODS.items()}
    add_setting_flags(parser, defaults=defaults, methods=methods)


def _number_or_all(text: str) -> int | Literal["all"]:
    if text == "all":
        return "all"
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of epochs: give one, or all")
    return int(text)


def _defaults(typed: Sequence[str]) -> dict[str, Config] | None:
    """Return the recipe that would run, by name; None for a run that has its settings already."""
    options = peek(typed, recipe=None, dataset=None, config=None, resume=None, method=None, like=None)
    if options.config or options.resume or options.like:
        return None
    try:
        config = recipe(options.recipe or default_recipes(options.dataset)[0])
        config = config.override({"method": options.method} if options.method else {})
    except InputError:  # said when it is parsed
        config = recipe(default_recipes(None)[0])
    return {config.recipe: config}


def run(options: argparse.Namespace) -> int:
    """Train, and print the scores and the folder."""
    config, output = config_and_folder(options)

    from flatnext.progress import ConsoleDisplay
    from flatnext.runs.folder import RunFolder
    from flatnext.training import train

    before = RunFolder(output).result() if options.resume and RunFolder(output).finished() else None
    result = train(
        config,
        output,
        data_dir=data_dir(options, options.resume or options.config),
        device=options.device,
        download=options.download,
        resume=options.resume is not None,
        changes=setting_overrides(vars(options)) if options.resume is not None else None,
        overwrite=options.overwrite,
        display=ConsoleDisplay(),
        command=options.command_line,
        track=trackers(options),
        threads=options.threads,
        keep_checkpoints=options.keep_checkpoints,
        on_divergence=options.on_divergence,
        known=getattr(options, "known", None),
    )
    if is_first():
        if result == before:
            done = counted(result.last.epoch, "epoch")
            print(f"{output} finished before ({done}): give --epochs N to make it longer", file=sys.stderr)
        for name, checkpoint in (("last", result.last), ("best", result.best)):
            if checkpoint is not None:
                print(_format_scores(name, checkpoint))
        classes = RunFolder(output).environment().classes
        if text := _format_f1(result.last, classes):
            print(text)
        print(output)
    return 0


def config_and_folder(options: argparse.Namespace) -> tuple[Config, Path]:
    """Return the config and the run folder that the flags ask for."""
    overrides, typed = setting_overrides(vars(options)), options.data_dir
    if options.resume is not None:
        return _resumed(options, overrides), options.resume
    if options.config is None and options.like is None:
        overrides = data_overrides(options)
    if options.config is not None:
        config = _config_of(options.config)
    elif options.like is not None:
        config = _like(options)
    else:
        config = recipe(options.recipe or default_recipes(overrides.get("dataset"))[0])
    config = config.override(overrides)
    if (source := options.config or options.like) is not None and "dataset" not in overrides:
        require_no_pictures(typed, config.data.dataset, source)
    require_data_dir_used(typed, overrides, [config])
    if config.start.weights:
        from flatnext.training.starting import settled

        given = overrides.keys() & {item.name for item in fields(Model)} - {"parameter_budget"}
        config = settled(config, model_given=bool(given))
    name = data_name(config.data, data_dir(options, options.config))
    return config, options.output or Path("runs") / folder_name(config, name)


def _resumed(options: argparse.Namespace, overrides: Mapping[str, Any]) -> Config:
    """Return the config of the run to resume."""
    from flatnext.runs.artifact import RUN, refusal
    from flatnext.runs.folder import RunFolder
    from flatnext.runs.reading import CONFIG, read_config

    folder = options.resume
    if not RunFolder(folder).is_run():
        raise InputError(refusal(folder, RUN, files=False) or f"{folder} is not the folder of a run: {RUN}")
    if options.output or options.overwrite or (overrides and "epochs" not in overrides):
        raise InputError(
            "--resume takes its settings from the run: leave settings, --output and --overwrite out; --epochs N makes "
            "the run longer"
        )
    return read_config(folder / CONFIG)


def _config_of(file: Path) -> Config:
    """Return the config in a file: a run's as it is, any other with what it leaves out from the recipe it names."""
    from flatnext.runs.config_file import read_config_file
    from flatnext.runs.folder import RunFolder
    from flatnext.runs.reading import CONFIG, read_config

    if not file.is_file():
        raise InputError(f"{file} is no file: give the config.json of a run, or a config of yours")
    of_run = file.name == CONFIG and RunFolder(file.parent).started()
    config = read_config(file) if of_run else read_config_file(file)
    begins = config.schedule.schedule_begins
    if begins and is_first():
        words = f"is of a run that was made longer after {counted(begins, 'epoch')}"
        print(f"{file} {words}: here its last schedule is for all {counted(config.epochs, 'epoch')}", file=sys.stderr)
    return as_new_run(config)


def _like(options: argparse.Namespace) -> Config:
    """Return the config that a study advises, say why, and let the data lie where the study had them."""
    from flatnext.study.final_run import final_run

    found = final_run(options.like)
    options.known = found.known
    if is_first():
        print(found.why, file=sys.stderr)
    if options.data_dir is None and "setting_dataset" not in options:
        options.data_dir = found.data_dir
    return found.config


def _format_scores(name: str, checkpoint: CheckpointScores) -> str:
    loss = math.nan if checkpoint.test.loss is None else checkpoint.test.loss
    confusion = checkpoint.test.confusion
    balanced = ""
    if confusion is not None and is_uneven(confusion):  # then a high accuracy may hide a class that is never found
        balanced = f"balanced test accuracy {balanced_accuracy(confusion):.2%}, "
    accuracy = f"{balanced}test accuracy {checkpoint.test.accuracy:.2%}"
    by_balanced = checkpoint.validation is not None and checkpoint.validation.balanced_accuracy is not None
    chosen = ", by the balanced validation accuracy" if name == "best" and by_balanced else ""
    return f"{name} (epoch {checkpoint.epoch}{chosen}): {accuracy}, loss {loss:.4f}"


def _format_f1(checkpoint: CheckpointScores, classes: Sequence[str]) -> str:
    """Return the F1 of each class, the lowest first; nothing where the classes are even."""
    confusion = checkpoint.test.confusion
    if confusion is None or not is_uneven(confusion):
        return ""
    scores = [(score, name) for score, name in zip(f1_scores(confusion), classes, strict=True) if score is not None]
    shown = [f"{printable(name)} {score:.2%}" for score, name in sorted(scores)]
    more = [f"{counted(len(shown) - MOST_SHOWN, 'more class')}"] if len(shown) > MOST_SHOWN else []
    return f"F1 by class, last epoch: {', '.join([*shown[:MOST_SHOWN], *more])}"
