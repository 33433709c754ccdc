"""The command line: one verb a job. Each verb imports what it needs when it runs, so that `--help` comes at once."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from flatnext.bench.plan import plan_from_flags
from flatnext.config import Config, Model, recipe
from flatnext.errors import InputError
from flatnext.evidence.plan import evidence_from_flags, given_evidence_flags
from flatnext.flags import setting_overrides
from flatnext.parser import first_process, make_parser
from flatnext.study.plan import make_plan, override_each, with_models

DATA_DIR = Path(".data")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0 done, 1 a run failed, 2 bad input, 130 stopped."""
    options = make_parser().parse_args(arguments)
    options.command = shlex.join(["flatnext", *(sys.argv[1:] if arguments is None else arguments)])
    try:
        return VERBS[options.verb](options)
    except InputError as error:
        _complain(f"error: {error}")
        return 2
    except (RuntimeError, MemoryError) as error:
        if "memory" not in str(error).lower() and not isinstance(error, MemoryError):
            raise
        _complain("error: out of memory: lower --batch-size or --image-size, or raise --grad-accum-steps")
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # somebody closed the pipe that this writes to, as `| head` does
            sys.stderr.close()
            return 0
        _complain(f"error: {error.filename or 'a file'}: {error.strerror or error}")
        return 2
    except KeyboardInterrupt as error:
        _complain(str(error) or "interrupted")
        return 130


def _complain(message: str) -> None:
    if first_process():
        print(f"flatnext: {message}", file=sys.stderr)


def _data_dir(options: argparse.Namespace, run: Path | None = None) -> Path:
    """Return the folder that the flag names, or the one in which a run (that of a weights file) had its data."""
    if options.data_dir is not None or run is None:
        return options.data_dir or DATA_DIR

    from flatnext.training import RunFolder

    return RunFolder(run if run.is_dir() else run.parent).data_dir() or DATA_DIR


def _study(options: argparse.Namespace) -> int:
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("a study runs in one process: use torchrun with train, then flatnext report")
    overrides = setting_overrides(vars(options))
    names = options.recipes or (["quick", "quick-amp"] if _digits(overrides) else ["sgd", "amp"])
    configs = override_each([recipe(name) for name in names], overrides)
    if options.models:
        if overrides.keys() & {field.name for field in fields(Model)} - {"parameter_budget"}:
            raise InputError("--models names whole models: leave --model and the settings of a model out")
        configs = with_models(configs, options.models)
    output = options.output or Path("studies") / configs[0].data.dataset

    from flatnext.study.run import run_study
    from flatnext.training import make_progress

    failures = run_study(
        make_plan(configs, options.seeds, options.first_seed),
        output,
        data_dir=_data_dir(options),
        device=options.device,
        download=options.download,
        overwrite=options.overwrite,
        progress=make_progress(),
        command=options.command,
    )
    _write_report([output], output)
    for failure in failures:
        print(f"flatnext: error: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _digits(overrides: dict[str, Any]) -> bool:
    """Return whether the digits are asked for, which have recipes of their own."""
    return overrides.get("dataset") == "digits"


def _train(options: argparse.Namespace) -> int:
    overrides = setting_overrides(vars(options))
    config, output = _config(options, overrides)

    from flatnext.training import make_progress, train

    result = train(
        config,
        output,
        data_dir=_data_dir(options, options.resume),
        device=options.device,
        download=options.download,
        resume=options.resume is not None,
        overwrite=options.overwrite,
        progress=make_progress(),
        command=options.command,
    )
    if not first_process():
        return 0
    for name in ("last", "best"):
        if result[name] is not None:
            test = result[name]["test"]
            print(
                f"{name} (epoch {result[name]['epoch']}): test accuracy {test['accuracy']:.2%}, loss {test['loss']:.4f}"
            )
    print(output)
    return 0


def _config(options: argparse.Namespace, overrides: dict[str, Any]) -> tuple[Config, Path]:
    """Return the config and the run folder that the flags of `train` ask for."""
    from flatnext.training import read_config

    if options.resume is not None:
        if overrides or options.output or options.overwrite:
            raise InputError("--resume takes its settings from the run: leave settings, --output and --overwrite out")
        return read_config(options.resume / "config.json"), options.resume
    name = options.recipe or ("quick" if _digits(overrides) else "sgd")
    config = recipe(name) if options.config is None else read_config(options.config)
    config = config.override(overrides)
    return config, options.output or Path("runs") / f"{config.recipe}-seed-{config.seed}"


def _evaluate(options: argparse.Namespace) -> int:
    overrides = setting_overrides(vars(options)) | ({"precision": options.precision} if options.precision else {})
    places = {"device": options.device, "download": options.download}
    if options.parts:
        return _gather(options, overrides, places)
    unused = given_evidence_flags(vars(options))
    if unused:
        raise InputError(f"{unused[0]} is for the evidence: name the parts to gather by --parts, or leave it out")

    if len(options.test_set or []) > 1:
        raise InputError("--test-set is given several: name parts to gather by --parts, or give one at a time")

    from flatnext.evaluation import evaluate

    scores = evaluate(
        options.path,
        checkpoint=options.checkpoint,
        split=options.split or "test",
        test_set=options.test_set[0] if options.test_set else None,
        data_dir=_data_dir(options, options.path),
        progress=True,
        overrides=overrides,
        **places,
    )
    if options.json:
        print(json.dumps(scores))
        return 0
    print(f"{scores['weights']} on {scores['count']:,} {scores['split']} images ({scores['precision']})")
    print(f"accuracy {scores['accuracy']:.2%}, loss {scores['loss']:.4f}")
    for name, row, index in zip(scores["classes"], scores["confusion"], range(len(scores["classes"])), strict=True):
        print(f"  {name:<16} {row[index] / max(sum(row), 1):8.2%} of {sum(row):,}")
    return 0


def _gather(options: argparse.Namespace, overrides: dict[str, Any], places: dict[str, Any]) -> int:
    if options.split or options.json:
        raise InputError("--parts chooses its images and writes a file: leave --split and --json out")
    plan, parts = evidence_from_flags(vars(options))

    from flatnext.evidence.gather import gather, run_folders
    from flatnext.evidence.progress import Display

    folders = run_folders(options.path)
    if options.output and len(folders) > 1:
        raise InputError(f"--output is for one model: {options.path} holds {len(folders)} runs, which keep their own")
    for folder in folders:
        file = gather(
            folder,
            parts,
            plan,
            output=options.output,
            checkpoint=options.checkpoint,
            test_sets=options.test_set or [],
            cifar10_c=options.cifar10_c,
            data_dir=_data_dir(options, folder),
            overwrite=bool(options.overwrite),
            overrides=overrides,
            display=Display(),
            command=options.command,
            **places,
        )
        print(file)
    if options.path.is_dir() and not options.output and options.checkpoint != "best":  # the report is on the last
        _write_report([options.path], options.path)
    return 0


def _report(options: argparse.Namespace) -> int:
    _write_report(options.folders, options.output or options.folders[0])
    return 0


def _write_report(folders: Sequence[Path], output: Path) -> None:
    from flatnext.report import write_report
    from flatnext.study.table import read_study

    study = read_study(folders)
    write_report(study, output)
    for line in (*study.verdict, output / "report.html", output / "report.md"):
        print(line)


def _bench(options: argparse.Namespace) -> int:
    plan = plan_from_flags(vars(options))

    from flatnext.bench.run import check_writable, run_bench
    from flatnext.bench.table import format_bench
    from flatnext.files import write_json
    from flatnext.training import make_progress

    if options.json:
        check_writable(options.json)
    result = run_bench(plan, say=make_progress().say, command=options.command)
    print(format_bench(result))
    if options.json:
        write_json(options.json, result)
    return 0


def _summary(options: argparse.Namespace) -> int:
    settings = Config().override({**setting_overrides(vars(options)), "parameter_budget": 2**53}).model

    import torch

    from flatnext import models

    if options.table1:
        if setting_overrides(vars(options)):
            raise InputError("--table1 is of two models of its own: leave the model's settings out")
        print(models.table1())
        return 0
    with torch.device("meta"):  # nothing is allocated, so that any size can be asked for
        model = models.build(settings, options.classes)
    print(models.format_summary(models.summarize(model, options.image_size)))
    return 0


def _weights(options: argparse.Namespace) -> int:
    from flatnext.models import format_shipped, shipped

    print(format_shipped(shipped()))
    return 0


def _pack(options: argparse.Namespace) -> int:
    from flatnext.deploy.pack import format_packed, pack

    packed = pack(
        options.folder,
        options.name,
        options.output,
        checkpoint=options.checkpoint,
        data_dir=_data_dir(options, options.folder),
        device=options.device,
        download=options.download,
        progress=True,
        overwrite=options.overwrite,
    )
    print(format_packed(packed))
    return 0


def _data(options: argparse.Namespace) -> int:
    settings = Config().override(setting_overrides(vars(options))).data

    from flatnext import data

    dataset = data.load(
        settings.dataset, _data_dir(options), image_size=settings.image_size, download=options.download, progress=True
    )
    print(data.describe(dataset, _data_dir(options)))
    if options.samples:
        data.sample_grid(dataset, settings, options.samples)
        print(options.samples)
    return 0


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "study": _study,
    "train": _train,
    "evaluate": _evaluate,
    "report": _report,
    "bench": _bench,
    "summary": _summary,
    "weights": _weights,
    "pack": _pack,
    "data": _data,
}
