"""The study's table: run folders on disk, grouped by recipe and compared. It is all that a report is made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from flatnext.config import Config
from flatnext.errors import InputError
from flatnext.runs.folder import RunFolder, find_plans, find_runs
from flatnext.runs.reading import read_plan, read_run
from flatnext.runs.records import CheckpointScores, RunRecord, Session, StudyPlan, UnfinishedRun
from flatnext.study.statistics import Comparison, adjust, compare_paired, estimate, points, sentence


@dataclass(frozen=True)
class Group:
    """The finished runs of one recipe, in the order of their seeds: one config but for the seed."""

    label: str
    config: Config
    runs: tuple[RunRecord, ...]

    def checkpoints(self, which: str = "last") -> dict[int, CheckpointScores]:
        """Return by seed the `last` epoch, or the `best` on the validation split of the runs that had one."""
        chosen = {r.config.seed: r.result.last if which == "last" else r.result.best for r in self.runs}
        return {seed: checkpoint for seed, checkpoint in chosen.items() if checkpoint is not None}

    def accuracy(self, which: str = "last") -> dict[int, float]:
        """Return the test accuracy by seed, a fraction, of the `last` or the `best` epoch."""
        return {seed: checkpoint.test.accuracy for seed, checkpoint in self.checkpoints(which).items()}


@dataclass(frozen=True)
class Contrast:
    """A group against the baseline. `comparison` (test accuracy, last epoch) is None without a seed in common."""

    group: Group
    baseline: Group
    comparison: Comparison | None

    @property
    def sentence(self) -> str:
        """What the comparison shows, in words."""
        if self.comparison is None:
            names = f"{self.group.label} and {self.baseline.label}"
            return f"{names} have no seed in common: run both with the same seeds to compare them."
        return sentence(self.comparison, self.group.label, self.baseline.label)


@dataclass(frozen=True)
class Study:
    """Everything that a report needs. `groups` may be empty: then no run has finished."""

    groups: tuple[Group, ...]
    left_out: tuple[UnfinishedRun, ...]

    @property
    def runs(self) -> tuple[RunRecord, ...]:
        """The runs of all groups."""
        return tuple(run for group in self.groups for run in group.runs)

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The sessions of all runs, by their start."""
        return tuple(sorted((s for run in self.runs for s in run.environment.sessions), key=lambda s: s.started))

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands that made the runs, each once, by their first start."""
        return tuple(dict.fromkeys(session.command for session in self.sessions if session.command))

    @cached_property
    def baseline(self) -> Group | None:
        """The first group that trains with plain SGD, else the first."""
        plain = [group for group in self.groups if group.config.method.name == "sgd"]
        return next(iter((*plain, *self.groups)), None)

    @cached_property
    def contrasts(self) -> tuple[Contrast, ...]:
        """Each other group against the baseline, with Holm's correction for their number."""
        if (baseline := self.baseline) is None:
            return ()
        others = [group for group in self.groups if group is not baseline]
        values = {group.label: group.accuracy() for group in others}
        paired = [group for group in others if values[group.label].keys() & baseline.accuracy().keys()]
        comparisons = adjust([compare_paired(values[group.label], baseline.accuracy()) for group in paired])
        found = {group.label: comparison for group, comparison in zip(paired, comparisons, strict=True)}
        return tuple(Contrast(group, baseline, found.get(group.label)) for group in others)

    @cached_property
    def verdict(self) -> tuple[str, ...]:
        """Which recipe is better and by how much, in plain sentences."""
        if not self.groups:
            return ("No run has finished: there is nothing to compare yet.",)
        if self.contrasts:
            return tuple(contrast.sentence for contrast in self.contrasts)
        (group,) = self.groups
        accuracy = estimate(group.accuracy().values())
        seeds = f"{accuracy.n} seed{'s' if accuracy.n > 1 else ''}"
        return (
            f"{group.label} reaches {points(accuracy.mean)} % test accuracy ({seeds}). No other recipe has a finished "
            "run: there is nothing to compare it with.",
        )

    @cached_property
    def settings(self) -> dict[str, tuple[Any, ...]]:
        """Each setting but recipe and seed, with its value in each group; None where a group has no such setting."""
        by_group = [settings(group.config) for group in self.groups]
        names = {name: None for values in by_group for name in values}
        return {name: tuple(values.get(name) for values in by_group) for name in names}


def settings(config: Config) -> dict[str, Any]:
    """Return the settings that distinguish recipes, by name: all but `recipe` and `seed`."""
    flat: dict[str, Any] = {}
    for name, value in config.to_json().items():
        if isinstance(value, dict):
            flat |= {name if inner == "name" else inner: item for inner, item in value.items()}
        elif name not in ("recipe", "seed"):
            flat[name] = value
    return flat


def setting_text(value: Any) -> str:
    """Return a setting's value as people write it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def read_study(paths: Iterable[Path]) -> Study:
    """Read the run folders in and below `paths`, with the plan in `study.json` where there is one.

    The plan gives the order of the recipes and the runs that are missing. Raises `InputError` for a path that does not
    exist or has no runs, a file that is damaged, two runs of one config, and runs on different data.
    """
    plans: dict[Path, StudyPlan] = {}  # by the real path of their file
    folders: dict[Path, str] = {}  # real path of a run folder to its name
    for path in map(Path, paths):
        if not path.is_dir():
            raise InputError(f"{path}: no such folder: give a study, a run, or a folder that holds some")
        found, files = find_runs(path), find_plans(path)
        if not found and not files:
            raise InputError(f"{path}: no runs in it (folders with a config.json and an environment.json)")
        plans |= {file.resolve(): read_plan(file) for file in files}
        folders |= {folder.resolve(): _name(folder, path) for folder in found}
    records = [read_run(folder, name) for folder, name in folders.items()]
    left_out = [record for record in records if isinstance(record, UnfinishedRun)]
    left_out += [
        UnfinishedRun(name, "not started, or deleted") for file, plan in plans.items() for name in _missing(file, plan)
    ]
    planned = [recipe for plan in plans.values() for recipe in plan.recipes]
    return Study(_groups([record for record in records if isinstance(record, RunRecord)], planned), tuple(left_out))


def _name(folder: Path, root: Path) -> str:
    relative = folder.relative_to(root).as_posix()
    return folder.resolve().name if relative == "." else relative


def _missing(file: Path, plan: StudyPlan) -> list[str]:
    """Return the planned runs that were not started, or have been deleted since."""
    runs = [f"{recipe}/seed-{seed}" for recipe in plan.recipes for seed in plan.seeds]
    return [run for run in runs if not RunFolder(file.parent / run).started()]


def _groups(runs: Sequence[RunRecord], planned: Sequence[str]) -> tuple[Group, ...]:
    """Group the runs by config without seed: planned recipes first, then plain SGD, then by name."""
    _check_same_data(runs)
    by_config: dict[Config, dict[int, RunRecord]] = {}
    for run in runs:
        seeds = by_config.setdefault(replace(run.config, seed=0), {})
        if (twin := seeds.setdefault(run.config.seed, run)) is not run:
            raise InputError(f"{twin.name} and {run.name} are of the same config and seed: report one of them")
    rank = {recipe: place for place, recipe in reversed(list(enumerate(planned)))}
    configs = sorted(by_config, key=lambda c: (rank.get(c.recipe, len(planned)), c.method.name != "sgd", c.recipe))
    labels = _labels(configs)
    return tuple(
        Group(label, config, tuple(by_config[config][seed] for seed in sorted(by_config[config])))
        for label, config in zip(labels, configs, strict=True)
    )


def _labels(configs: Sequence[Config]) -> list[str]:
    """Return the recipes' names; where several configs share one, with the settings they differ in."""
    labels = []
    for config in configs:
        own = settings(config)
        alike = [settings(other) for other in configs if other.recipe == config.recipe]
        differing = [name for name in own if any(other.get(name, own[name]) != own[name] for other in alike)]
        text = ", ".join(f"{name}={setting_text(own[name])}" for name in differing)
        labels.append(f"{config.recipe} ({text})" if text else config.recipe)
    return labels


def _check_same_data(runs: Sequence[RunRecord]) -> None:
    def data(run: RunRecord) -> tuple[str, tuple[str, ...], int]:
        return run.config.data.dataset, run.environment.classes, run.environment.test_images

    for run in runs:
        if data(run) != data(runs[0]):
            raise InputError(f"{runs[0].name} and {run.name} were tested on different images: report them apart")
