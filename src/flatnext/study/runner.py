"""Carrying a plan out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal

from flatnext.device import resolve_device
from flatnext.durations import duration
from flatnext.errors import InputError
from flatnext.progress import Display
from flatnext.runs.folder import RunFolder
from flatnext.runs.reading import STUDY, read_plan
from flatnext.study.assignment import Assignment, Outcome, carry_out
from flatnext.study.division import Division, Sample, cores
from flatnext.study.plan import RunPlan
from flatnext.study.pool import Pool, gpus, measured
from flatnext.training import Stopped, load_data
from flatnext.training.inputs import check_fit
from flatnext.training.starting import settled
from flatnext.training.stop import stop_on_signal

Jobs = int | Literal["auto"]


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
    jobs: Jobs = 1,
    threads: int | None = None,
) -> list[str]:
    """Run what is not finished, going on with what is half-finished; return a line for each run that failed.

    Every run's folder is checked before the first one starts. A run that fails does not keep the others from running;
    one that another process has, on this machine or another, is left to it.

    Args:
        plan: the runs.
        output: the study's folder.
        data_dir, device, download, overwrite, display, command, track: as of `flatnext.train`.
        jobs: so many runs at a time, each in a process of its own, on a GPU of its own where there are several. `auto`
            measures once how many make the most images a second, and keeps that with the study.
        threads: of each run; by default those that the study began with, or its share of the cores. The bits of a run
            depend on them, not on `jobs`.

    Raises:
        InputError: a run is there with other settings (give `overwrite`, or another output), or cannot be started.
        Stopped: Ctrl-C or a termination signal came; the same command goes on.
    """
    display = display or Display()
    plan = replace(plan, configs=tuple(map(settled, plan.configs)))
    runs = plan.runs(output)
    for run in runs:
        RunFolder(run.folder).check(run.config, resume=True, overwrite=overwrite)
    left = [run for run in runs if overwrite or not RunFolder(run.folder).finished()]
    if left:
        resolve_device(device)  # before anything is downloaded
    for config in plan.configs:  # data that cannot be used is seen before anything is written
        check_fit(config, load_data(config, data_dir, download=download, progress=display.speaks), processes=1)
    kept = _kept_division(output)
    threads = threads or (kept.threads if kept else None)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {output}: {error.strerror}; choose another --output") from error
    plan.write(output, command, kept)
    assignments = [
        Assignment(
            config=run.config,
            folder=str(run.folder),
            data_dir=str(data_dir),
            device=device,
            download=download,
            overwrite=overwrite,
            command=command,
            track=tuple(track),
            threads=threads,
        )
        for run in left
    ]
    log = RunLog(display, [str(run.folder) for run in runs], overwrite=overwrite)
    if jobs == 1 or not left:
        for place, assignment in enumerate(assignments, start=1):
            log.begin(assignment, assignments[place:])
            log.end(assignment, carry_out(assignment, display))
        return log.failures
    with stop_on_signal() as stop_requested, ExitStack() as stack:
        sample = Sample(config=runs[0].config, data_dir=str(data_dir), device=device, threads=1)
        pool, division = _divided(stack, jobs, threads, kept, sample, display, len(left))
        plan.write(output, command, division)
        assignments = [replace(assignment, threads=division.threads) for assignment in assignments]
        for assignment, outcome in pool.carry_out(assignments, stop_requested, log.begin):
            log.end(assignment, outcome)
    return log.failures


def _kept_division(output: Path) -> Division | None:
    """Return how the machine was divided when the study began, None where that is not known."""
    plan = read_plan(output / STUDY) if (output / STUDY).is_file() else None
    return Division(jobs=plan.jobs, threads=plan.threads) if plan and plan.jobs else None


def _divided(
    stack: ExitStack,
    jobs: Jobs,
    threads: int | None,
    kept: Division | None,
    sample: Sample,
    display: Display,
    runs: int,
) -> tuple[Pool, Division]:
    """Return a pool of processes, and how the machine is divided among them."""
    devices = gpus(sample.device)
    if jobs == "auto" and not devices and not threads and not kept:
        pool = stack.enter_context(Pool(min(cores(), runs), display))
        division = measured(pool, sample)
        pool.keep(division.jobs)
        return pool, division
    if jobs == "auto" and kept and threads == kept.threads:
        division = kept
    else:
        most = devices or max(cores() // (threads or 1), 1)
        number = most if jobs == "auto" else jobs
        share = None if devices else max(cores() // number, 1)
        division = Division(jobs=number, threads=threads or share)
    return stack.enter_context(Pool(min(division.jobs, runs), display)), division


class RunLog:
    """Says which run of a study begins, how each ended and how long the rest will take, and counts failures."""

    def __init__(self, display: Display, folders: Sequence[str], *, overwrite: bool) -> None:
        self.display, self.folders, self.overwrite = display, folders, overwrite
        self.failures: list[str] = []
        self.began: dict[str, float] = {}
        self.seconds: dict[str, list[float]] = {}
        for number, folder in enumerate(folders, start=1):
            if not overwrite and RunFolder(Path(folder)).finished():
                config = RunFolder(Path(folder)).config()
                self.display.say(
                    f"run {number} of {len(folders)}: {config.recipe}, seed {config.seed}: finished before"
                )

    def label(self, assignment: Assignment) -> str:
        """Return which run this is."""
        number = self.folders.index(assignment.folder) + 1
        return f"run {number} of {len(self.folders)}: {assignment.config.recipe}, seed {assignment.config.seed}"

    def begin(self, assignment: Assignment, left: Sequence[Assignment] = (), jobs: int = 1) -> None:
        """Say that a run begins, and how long it and those that are `left` take, once that is known."""
        recipes = [item.config.recipe for item in (assignment, *left)]
        known = all(recipe in self.seconds for recipe in recipes)
        seconds = sum(sum(self.seconds[r]) / len(self.seconds[r]) for r in recipes) / jobs if known else 0
        self.display.say(
            self.label(assignment) + (f" (the study needs about {duration(seconds)} more)" if known else "")
        )
        if self.overwrite or not Path(assignment.folder).exists():  # half a run tells nothing of a whole one
            self.began[assignment.folder] = time.monotonic()

    def end(self, assignment: Assignment, outcome: Outcome) -> None:
        """Take what became of a run. Raises `Stopped` and `InputError` for what ends the study."""
        label = self.label(assignment)
        if outcome.kind == "stopped":
            again = "the same command without --overwrite" if self.overwrite else "the same command"
            raise Stopped(f"stopped in {label}; {again} goes on from there")
        if outcome.kind == "refused":
            raise InputError(outcome.message)
        if outcome.kind == "held":
            self.display.say(f"{label}: left to {outcome.message}")
        elif outcome.kind == "failed":
            self.display.say(f"{label}: failed: {outcome.message}")
            self.failures.append(f"{assignment.folder}: {outcome.message}")
        elif assignment.folder in self.began:
            seconds = time.monotonic() - self.began[assignment.folder]
            self.seconds.setdefault(assignment.config.recipe, []).append(seconds)
