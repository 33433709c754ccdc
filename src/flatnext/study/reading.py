"""Reading a study: run folders on disk, grouped by recipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from flatnext.config import Config
from flatnext.errors import InputError
from flatnext.runs.fingerprint import change
from flatnext.runs.folder import RunFolder, find_plans, find_runs
from flatnext.runs.reading import read_plan, read_run
from flatnext.runs.records import RunRecord, StudyPlan, UnfinishedRun
from flatnext.study.groups import Group, setting_text, settings
from flatnext.study.study import Study


def read_study(paths: Iterable[Path]) -> Study:
    """Read the run folders in and below `paths`, with the plan in `study.json` where there is one.

    The plan gives the order of the recipes and the runs that are missing. Raises `InputError` for a path that does not
    exist or has no runs, a file that is damaged, two runs of one config, and runs on different data.
    """
    paths = tuple(map(Path, paths))
    plans: dict[Path, StudyPlan] = {}  # by the real path of their folder
    folders: dict[Path, str] = {}  # real path of a run folder to its name
    for path in paths:
        if not path.is_dir():
            raise InputError(f"{path}: no such folder: give a study, a run, or a folder that holds some")
        runs, files = find_runs(path), find_plans(path)
        if not runs and not files:
            raise InputError(f"{path}: no runs in it (folders with a config.json and an environment.json)")
        plans |= {file.parent.resolve(): read_plan(file) for file in files}
        folders |= {folder.resolve(): _name(folder, path) for folder in runs}
    records = [read_run(folder, name) for folder, name in folders.items()]
    left_out = [record for record in records if isinstance(record, UnfinishedRun)]
    left_out += [
        UnfinishedRun(name, "not started, or deleted")
        for folder, plan in plans.items()
        for name in (f"{recipe}/seed-{seed}" for recipe in plan.recipes for seed in plan.seeds)
        if not RunFolder(folder / name).started()
    ]
    recipes = [recipe for plan in plans.values() for recipe in plan.recipes]
    contrasts = tuple(dict.fromkeys(pair for plan in plans.values() for pair in plan.contrasts))
    finished = [record for record in records if isinstance(record, RunRecord)]
    return Study(_groups(finished, recipes), tuple(left_out), contrasts, paths)


def _name(folder: Path, root: Path) -> str:
    relative = folder.relative_to(root).as_posix()
    return folder.resolve().name if relative == "." else relative


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
    return tuple(
        Group(label, config, tuple(by_config[config][seed] for seed in sorted(by_config[config])))
        for label, config in zip(_labels(configs), configs, strict=True)
    )


def _labels(configs: Sequence[Config]) -> list[str]:
    """Return the recipes' names; where several configs share one, with the settings they differ in."""
    labels = []
    for config in configs:
        values = settings(config)
        alike = [settings(other) for other in configs if other.recipe == config.recipe]
        differing = [name for name in values if any(other.get(name, values[name]) != values[name] for other in alike)]
        text = ", ".join(f"{name}={setting_text(values[name])}" for name in differing)
        labels.append(f"{config.recipe} ({text})" if text else config.recipe)
    return labels


def _check_same_data(runs: Sequence[RunRecord]) -> None:
    def data(run: RunRecord) -> tuple[object, ...]:
        images = (run.environment.test_images, run.result.last.test.count)
        return run.config.data.dataset, run.environment.classes, images

    for run in runs:
        if data(run) != data(runs[0]):
            raise InputError(f"{runs[0].name} and {run.name} were tested on different images: report them apart")
    firsts: dict[tuple[object, ...], RunRecord] = {}
    for run in runs:
        settings = run.config.data
        division = settings.image_size, settings.validation, settings.split_seed, settings.train_images
        for key, splits in ((division[:1], ("test",)), (division, ("train", "validation"))):
            first = firsts.setdefault(key, run) if run.environment.data else run
            before, now = first.environment.data, run.environment.data
            if before and now and (words := change(before, now, *splits)):
                raise InputError(
                    f"the data of {first.name} and {run.name} are not the same ({words}): report them apart"
                )
