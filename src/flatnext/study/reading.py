"""Reading a study: run folders on disk, grouped by recipe."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flatnext.config import Config, labelled, names_recipe, recipe_name
from flatnext.config.setting import show
from flatnext.errors import InputError
from flatnext.runs.artifact import refusal
from flatnext.runs.fingerprint import change
from flatnext.runs.folder import RunFolder, find_plans, find_runs
from flatnext.runs.reading import STUDY, read_plan, read_run
from flatnext.runs.records import RunRecord, StudyPlan, UnfinishedRun
from flatnext.study.groups import Group, settings
from flatnext.study.study import ReadPlan, Study

WANTED = "give a study, a run, or a folder that holds some"


def read_study(paths: Iterable[Path]) -> Study:
    """Read the run folders in and below `paths`, with the plan in `study.json` where there is one.

    The plan gives the order of the recipes and the runs that are missing. Raises `InputError` for a path that does not
    exist or has no runs, a file that is damaged, two runs of one config, and runs on different data.
    """
    paths = tuple(map(Path, paths))
    plans: dict[Path, StudyPlan] = {}  # by the real path of their folder
    folders: dict[Path, str] = {}  # real path of a run folder to its name
    found: dict[Path, list[Path]] = {}  # and to the paths by which it was found: a link may have its recipe elsewhere
    for path in paths:
        if not path.is_dir():
            raise InputError(refusal(path, WANTED, files=False) or f"{path} is no folder: {WANTED}")
        runs, files = find_runs(path), find_plans(path)
        if not runs and not files:
            raise InputError(refusal(path, WANTED, files=False) or f"{path} holds no run: {WANTED}")
        plans |= {file.parent.resolve(): read_plan(file) for file in files}
        folders |= {folder.resolve(): _name(folder, path) for folder in runs}
        for folder in runs:
            found.setdefault(folder.resolve(), []).append(folder.absolute())
    others = {folder: name for folder, name in folders.items() if not _is_planned(found[folder], plans)}
    folders = {folder: name for folder, name in folders.items() if folder not in others}
    records = [read_run(folder, name) for folder, name in folders.items()]
    left_out = [UnfinishedRun(name, "not of the study's plan", planned=False) for name in others.values()]
    left_out += [record for record in records if isinstance(record, UnfinishedRun)]
    left_out += [
        UnfinishedRun(name, "not started, or deleted")
        for folder, plan in plans.items()
        for name in (f"{recipe}/seed-{seed}" for recipe in plan.recipes for seed in plan.seeds)
        if not RunFolder(folder / name).started()
    ]
    recipes = [recipe for plan in plans.values() for recipe in plan.recipes]
    finished = [record for record in records if isinstance(record, RunRecord)]
    of_runs = {path.parent.parent.resolve() for folder in folders for path in found[folder]} - plans.keys()
    files = [folder / STUDY for folder in of_runs if (folder / STUDY).is_file()]  # of a study that is given in parts
    groups = _groups(finished, recipes)
    places = {id(record): found[folder] for record, folder in zip(records, folders, strict=True)}

    def belongs(run: RunRecord, study: Path) -> bool:
        return len(plans) == 1 or any(study in _above(path) for path in places[id(run)])

    def most_seeds(study: Path) -> int:
        return max((sum(belongs(run, study) for run in group.runs) for group in groups), default=0)

    return Study(
        groups=groups,
        left_out=tuple(left_out),
        plans=tuple(
            ReadPlan(plan, tuple(group for group in groups if any(belongs(run, folder) for run in group.runs)))
            for folder, plan in plans.items()
        ),
        paths=paths,
        sequential=any(plan.max_seeds for plan in (*plans.values(), *map(read_plan, files))),
        begun_with=next(
            (p.begun_with for f, p in plans.items() if p.begun_with and p.begun_with < most_seeds(f)), None
        ),
    )


def _above(path: Path) -> set[Path]:
    """Return the folders above a path, where they really are."""
    return {parent.resolve() for parent in path.parents}


def _is_planned(found: Iterable[Path], plans: Mapping[Path, StudyPlan]) -> bool:
    """Return whether a run in the folder of a study lies where the study makes its runs, in RECIPE/seed-SEED.

    A run that was made again, or put there, is no other seed. One that lies in no study is of no plan, and counts.
    """
    inside = [path for path in found if _above(path) & plans.keys()]
    made = [path for path in inside if path.parent.parent.resolve() in plans]
    return not inside or any(re.fullmatch(r"seed-\d+", path.name) for path in made)


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
    groups = [tuple(by_config[config][seed] for seed in sorted(by_config[config])) for config in configs]
    labels = _labels(configs, [runs[0].environment.not_of_recipe for runs in groups])
    for label in labels:  # runs are told apart by it
        if labels.count(label) > 1:
            raise InputError(f"two recipes are both called {label}: report them apart")
    return tuple(Group(*of_group) for of_group in zip(labels, configs, groups, strict=True))


def _labels(configs: Sequence[Config], not_of_recipe: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the recipes' names, with the settings that are not those of the recipe, but for what all groups share.

    Where several configs have one name, with the settings they differ in. A config with a name of its own, as from a
    file, shares a setting that it has with the same value.
    """
    deviating = [changed if names_recipe(c) else settings(c) for c, changed in zip(configs, not_of_recipe, strict=True)]
    changes = dict(item for changed in not_of_recipe for item in changed.items())
    shared = {name for name, value in changes.items() if all(other.get(name) == value for other in deviating)}
    shared = shared if len(configs) > 1 else set()
    names, labels = [recipe_name(config) for config in configs], []
    for name, config, changed in zip(names, configs, not_of_recipe, strict=True):
        values = settings(config)
        alike = [settings(other) for other, theirs in zip(configs, names, strict=True) if theirs == name]
        differing = [key for key in values if any(other.get(key, values[key]) != values[key] for other in alike)]
        text = ", ".join(f"{key}={show(values[key], ', ', exact=True)}" for key in differing)
        own = {setting: value for setting, value in changed.items() if setting not in shared}
        labels.append(f"{name} ({text})" if text else labelled(name, own))
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
        division = (
            settings.image_size,
            settings.validation,
            settings.split_seed,
            settings.calibration,
            settings.train_images,
        )
        for key, splits in ((division[:1], ("test",)), (division, ("train", "validation"))):
            first = firsts.setdefault(key, run) if run.environment.data else run
            before, now = first.environment.data, run.environment.data
            if before and now and (words := change(before, now, *splits)):
                raise InputError(f"{first.name} and {run.name} are of different data ({words}): report them apart")
