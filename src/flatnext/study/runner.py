"""Carrying a plan out."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from flatnext.config import Config, Sgd
from flatnext.device import resolve_device
from flatnext.errors import InputError
from flatnext.progress import Display
from flatnext.runs.folder import RunFolder
from flatnext.study.assignment import Assignment, InProcess, Runner
from flatnext.study.division import Division, Sample
from flatnext.study.exchange import Exchange, kept_on
from flatnext.study.plan import PlannedRun, RunPlan, check_goes_on, plan_in
from flatnext.study.pool import Jobs, open_pool
from flatnext.study.ray_cluster import Cluster, open_cluster
from flatnext.study.run_log import RunLog
from flatnext.training import load_data
from flatnext.training.inputs import check_fit, data_of
from flatnext.training.starting import settled
from flatnext.words import counted

GOES_ON = "restore them, or begin a study with another --output"
"""What to do where the data of a study have changed."""


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
    cluster: Cluster | None = None,
) -> list[str]:
    """Run what is not finished, going on with what is half-finished; return a line for each run that failed.

    Every run's folder is checked before the first one starts. A run that fails does not keep the others from running;
    one that another process has, on this machine or another, is left to it.

    Args:
        plan: the runs.
        output: the study's folder.
        data_dir, device, download, display, command, track: as of `flatnext.train`.
        overwrite: delete the runs of the plan that are there, before the first new one begins.
        jobs: so many runs at a time, each in a process of its own, on a GPU of its own where there are several. `auto`
            measures once how many make the most images a second, and keeps that with the study.
        threads: of each run; by default those that the study began with, or its share of the cores. The bits of a run
            depend on them, not on `jobs`.
        cluster: a cluster of Ray that makes the runs, with `threads` CPUs each, `jobs` at a time or as many as it has
            room for.

    Raises:
        InputError: a run is there with other settings (give `overwrite`, or another output), or cannot be started; the
            study there is one that adds seeds until it has decided, and the plan is not.
        Stopped: Ctrl-C or a termination signal came; the same command goes on.
    """
    display = display or Display()
    Division(jobs=1 if jobs == "auto" else jobs, threads=threads)  # checks the numbers
    plan = replace(plan, configs=tuple(map(settled, plan.configs)))
    make = functools.partial(
        Assignment,
        data_dir=str(data_dir),
        device=device,
        download=download,
        command=command,
        track=tuple(track),
    )
    with kept_on(cluster.storage if cluster else None, output, display.say) as exchange:
        runs = plan.runs(output)
        exchange.bring_plan()
        before = plan_in(output)
        check_goes_on(plan, before, output)
        if not overwrite:
            exchange.begin(runs, display.say)
        left = _left(runs, overwrite=overwrite)
        if left and not cluster:
            resolve_device(device)  # before anything is downloaded
        for config in plan.configs:  # data that cannot be used is seen before anything is written
            known = None if overwrite else data_of((run.folder for run in runs), config.data, GOES_ON)
            partition = load_data(config, data_dir, download=download, progress=display.speaks, known=known)
            check_fit(config, partition, processes=1)
        kept = Division(jobs=before.jobs, threads=before.threads) if before and before.jobs else None
        _make(output)
        if kept_contrasts := plan.kept(before):
            names = ", ".join(map(":".join, kept_contrasts))
            display.say(f"{counted(len(kept_contrasts), 'contrast')} planned by an earlier command, kept: {names}")
        log = RunLog(display, [str(run.folder) for run in runs], overwrite=overwrite)
        exchange.plan(plan, command, kept)
        if not left:
            return log.close()
        wanted = _Wanted(
            jobs=jobs,
            threads=threads if threads is not None else kept.threads if kept else None,
            kept=kept,
            samples=tuple(
                Sample(config=config, data_dir=str(data_dir), device=device, threads=1)
                for config in _different_networks(run.config for run in left)
            ),
            runs=len(left),
        )
        with _runner(wanted, display, cluster, exchange) as (runner, division):
            exchange.plan(plan, command, division, overwrite=overwrite)
            if overwrite:  # all at once: what is stopped goes on without it
                exchange.clear(left)
            threads = wanted.threads or (division.threads if division else None)
            assignments = [make(config=run.config, folder=str(run.folder), threads=threads) for run in left]
            with closing(runner.carry_out(assignments, log.begin)) as outcomes:
                for assignment, outcome in outcomes:
                    exchange.end(Path(assignment.folder))
                    log.end(assignment, outcome)
        return log.close()


def _left(runs: Sequence[PlannedRun], *, overwrite: bool) -> list[PlannedRun]:
    """Return the runs that are to be made. Raises `InputError` where one cannot."""
    for run in runs:
        RunFolder(run.folder).check(run.config, resume=True, overwrite=overwrite)
    return [run for run in runs if overwrite or not RunFolder(run.folder).finished()]


def _different_networks(configs: Iterable[Config]) -> Iterable[Config]:
    """Return configs that may take different memory: those that differ in the method alone take about the same."""
    return {replace(config, recipe="any", seed=0, method=Sgd()): config for config in configs}.values()


def _make(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {output}: {error.strerror}; choose another --output") from error


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """How many runs at a time are wanted, with how many threads, and how it was when the study began."""

    jobs: Jobs
    threads: int | None
    kept: Division | None
    samples: tuple[Sample, ...]
    runs: int


def _runner(
    wanted: _Wanted, display: Display, cluster: Cluster | None, exchange: Exchange
) -> AbstractContextManager[tuple[Runner, Division | None]]:
    """Give what makes the runs, and how the machine or the cluster is divided among them."""
    if cluster is None:
        return _local(wanted, display)
    device, threads, jobs = wanted.samples[0].device, wanted.threads, wanted.jobs
    return open_cluster(cluster, exchange, display, device=device, threads=threads, jobs=jobs)


@contextmanager
def _local(wanted: _Wanted, display: Display) -> Iterator[tuple[Runner, Division | None]]:
    if wanted.jobs == 1:
        # Noted, so that the study goes on with as many: the bits of its runs depend on them.
        number = torch.get_num_threads() if wanted.threads is None else wanted.threads
        yield InProcess(display), wanted.kept or Division(jobs=1, threads=number)
        return
    pool, division = open_pool(wanted.jobs, wanted.threads, wanted.kept, wanted.samples, display, wanted.runs)
    with pool:
        yield pool, division
