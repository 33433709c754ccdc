"""Carrying a plan out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flatnext.device import resolve_device
from flatnext.durations import duration
from flatnext.errors import InputError
from flatnext.progress import Display
from flatnext.runs.folder import RunFolder
from flatnext.study.plan import PlannedRun, RunPlan
from flatnext.training import Stopped, load_data, train
from flatnext.training.inputs import check_fit
from flatnext.training.starting import settled


def run_study(
    plan: RunPlan,
    output: Path,
    *,
    data_dir: Path | str = ".data",
    device: str = "auto",
    download: bool = True,
    overwrite: bool = False,
    display: Display | None = None,
    command: str = "",
    track: Sequence[str] = ("tensorboard",),
) -> list[str]:
    """Run what is not finished, going on with what is half-finished; return a line for each run that failed.

    Every run's folder is checked before the first one starts. A run that fails does not keep the others from running.

    Raises:
        InputError: a run is there with other settings (give `overwrite`, or another output), or cannot be started.
        Stopped: Ctrl-C or a termination signal came; the same command goes on.
    """
    display = display or Display()
    plan = replace(plan, configs=tuple(map(settled, plan.configs)))
    runs = plan.runs(output)
    for run in runs:
        RunFolder(run.folder).check(run.config, resume=True, overwrite=overwrite)
    if overwrite or not all(RunFolder(run.folder).finished() for run in runs):
        resolve_device(device)  # before anything is downloaded
    for config in plan.configs:  # data that cannot be used is seen before anything is written
        check_fit(config, load_data(config, data_dir, download=download, progress=display.speaks), processes=1)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {output}: {error.strerror}; choose another --output") from error
    plan.write(output, command)
    failures, seconds = [], dict[str, list[float]]()
    for number, run in enumerate(runs, start=1):
        label = f"run {number} of {len(runs)}: {run.config.recipe}, seed {run.config.seed}"
        if RunFolder(run.folder).finished() and not overwrite:
            display.say(f"{label}: finished before")
            continue
        display.say(label + _time_left(runs[number - 1 :], seconds))
        began, fresh = time.monotonic(), overwrite or not run.folder.exists()
        try:
            train(
                run.config,
                run.folder,
                data_dir=data_dir,
                device=device,
                download=download,
                resume=not overwrite,
                overwrite=overwrite,
                display=display,
                command=command,
                track=track,
            )
        except Stopped as error:
            again = "the same command without --overwrite" if overwrite else "the same command"
            raise Stopped(f"stopped in {label}; {again} goes on from there") from error
        except InputError as error:
            if not RunFolder(run.folder).failed():
                raise
            display.say(f"{label}: failed: {error}")
            failures.append(f"{run.folder}: {error}")
            continue
        if fresh:
            seconds.setdefault(run.config.recipe, []).append(time.monotonic() - began)
    return failures


def _time_left(runs: list[PlannedRun], seconds: dict[str, list[float]]) -> str:
    """Return a phrase on the time that `runs` will take, once this session has timed a run of each recipe."""
    if any(run.config.recipe not in seconds for run in runs):
        return ""
    left = sum(sum(seconds[run.config.recipe]) / len(seconds[run.config.recipe]) for run in runs)
    return f" (the study needs about {duration(left)} more)"
