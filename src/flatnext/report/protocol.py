"""The report's parts on what was run and how it was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from flatnext.config import Perturbation
from flatnext.report.blocks import Block, Code, Details, Section, Table
from flatnext.report.numbers import moment, span
from flatnext.runs.evidence import PARTS
from flatnext.runs.records import RunRecord
from flatnext.study.contrasts import equal_compute
from flatnext.study.groups import setting_text
from flatnext.study.plan import STRETCHED
from flatnext.study.study import Study
from flatnext.words import DASH, counted, duration, listing

DATASETS = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "digits": "handwritten digits",
    "folder": "a folder of images",
}

ABSENT = {item.name: item.default for item in fields(Perturbation)}
"""Settings that change nothing at their default: a method that lacks one counts as having it so."""


def dataset(study: Study) -> str:
    """Return the data set's name as people write it."""
    name = study.groups[0].config.data.dataset
    return DATASETS.get(name, name)


def remarks(study: Study) -> tuple[str, ...]:
    """Return what to know in reading the verdict: a subset of the data, differences beside the method, missing runs."""
    texts = []
    if subsets := [group for group in study.groups if group.config.data.train_images is not None]:
        counts = sorted({run.environment.train_images for group in subsets for run in group.runs})
        which = "" if len(subsets) == len(study.groups) else f" ({listing(group.label for group in subsets)})"
        texts.append(
            f"Trained on a subset of {dataset(study)}{which}: {listing(f'{count:,}' for count in counts)} images. "
            "Accuracies are not those of the full training set."
        )
    if changed := _changed_in_all(study):
        values = listing(f"{name} {setting_text(value)}" for name, value in changed.items())
        texts.append(f"All runs have settings that are not their recipe's own: {values}.")
    if study.begun_with and not study.sequential:
        texts.append(
            f"The study was begun with {counted(study.begun_with, 'seed')}, and some were added later: p and intervals "
            "do not allow for a look before that, as those of --until-decided do."
        )
    if study.contrasts:
        texts.append(_beside_the_method(study))
    texts += [
        f"{run.name} has not had the learning rate of its recipe throughout: {run.environment.rolled_back()}."
        for run in study.runs
        if run.environment.rollbacks
    ]
    environments = [run.environment for run in study.runs]
    if knowing := [run.name for run in study.runs if _knows_validation(run)]:
        texts.append(
            f"{listing(knowing)} started from weights that may have been trained on the validation images: the "
            "validation accuracy, by which the best epoch was chosen, may be too high."
        )
    if len({(s.device_name, e.precision, s.torch) for e in environments for s in e.sessions}) > 1:
        texts.append("The runs were not all made with the same device, precision and version of torch; see Settings.")
    if number := len(study.left_out):
        are = "are" if number > 1 else "is"
        texts.append(f"{counted(number, 'run')} {are} not in the statistics; see Runs left out.")
    return tuple(texts)


def protocol(study: Study) -> Section:
    """Return what was run: commands, settings, images, machine, versions and time, and how evidence was measured."""
    differing = _differing(study)
    blocks: list[Block] = [Code(study.commands)] if study.commands else []
    if differing:
        rows = tuple((name, *values) for name, values in differing.items())
        header = ("setting", *study.labels)
        blocks.append(Table("Settings that differ between the recipes", header, rows, numeric=False))
    common = {name: values for name, values in study.settings.items() if name not in differing}
    rows = tuple(
        (name, setting_text(next((value for value in values if value is not None), None)))
        for name, values in common.items()
    )
    title = f"The {len(rows)} settings that all recipes share"
    blocks += [Details(title, (Table("Settings", (), rows, numeric=False),)), _environment(study)]
    return Section("protocol", "Settings and machine", (*blocks, *_measurements(study)))


def left_out(study: Study) -> Section:
    """Return the runs that are not in the statistics, each with the reason."""
    rows = tuple((run.name, run.reason) for run in study.left_out)
    table = Table("Runs that are in no table and no figure above", ("run", "why"), rows, numeric=False)
    return Section("left-out", "Runs left out", (table,))


def _differing(study: Study) -> dict[str, tuple[str, ...]]:
    """Return the settings, as text, that are not the same in all groups; a dash where a group has no such setting."""
    differing = {}
    for name, values in study.settings.items():
        meant = [ABSENT.get(name) if value is None else value for value in values]
        if any(value != meant[0] for value in meant):
            differing[name] = tuple(map(setting_text, values))
    return differing


def _knows_validation(run: RunRecord) -> bool:
    start = run.environment.started_from
    return start is not None and start.may_know_held_out and run.result.best is not None


def _changed_in_all(study: Study) -> dict[str, Any]:
    """Return the settings, with their values, that every run has otherwise than the recipe that it names."""
    first, *others = [run.environment.not_of_recipe for run in study.runs]
    return {
        name: value
        for name, value in first.items()
        if name != "train_images" and all(name in other and other[name] == value for other in others)
    }


def _beside_the_method(study: Study) -> str:
    controls = equal_compute(study.groups)
    others = tuple(group for group in study.groups if group not in controls.values())
    texts = [_differences(replace(study, groups=others))] if len(others) > 1 else []
    for label, control in controls.items():
        pair = replace(study, groups=(*(group for group in others if group.label == label), control))
        besides = [name for name in _besides_the_method(pair) if name not in STRETCHED]
        differs = f"; it differs in {listing(besides)} too" if besides else ""
        texts.append(f"{control.label} is plain SGD with the passes of {label}{differs}.")
    return " ".join(texts)


def _differences(study: Study) -> str:
    besides = _besides_the_method(study)
    if len({group.config.method.name for group in study.groups}) == 1:
        return f"The recipes differ in {listing(besides)}." if besides else "The recipes have the same settings."
    if not besides:
        return "The recipes differ in the method and its settings alone."
    return f"The recipes differ in {listing(besides)} too: the comparison is of recipes, not of methods alone."


def _besides_the_method(study: Study) -> list[str]:
    """Return the settings that are not the same in all groups; of several methods, without the methods' own."""
    methods = [group.config.to_json()["method"] for group in study.groups]
    several = len({method["name"] for method in methods}) > 1
    of_methods = {"method", *(name for method in methods for name in method)} if several else set()
    return [name for name in _differing(study) if name not in of_methods]


def _environment(study: Study) -> Table:
    """Return the runs' environments; where they are not all the same, each value with the number of its runs."""
    runs, environments = study.runs, [run.environment for run in study.runs]

    def values(texts: Iterable[str]) -> str:
        counts = Counter(texts)
        many = len(counts) > 1
        return "; ".join(f"{text} ({count} of {len(runs)} runs)" if many else text for text, count in counts.items())

    def field(name: str) -> str:
        return values(setting_text(getattr(e, name)) for e in environments)

    def images(name: str) -> str:
        return values(f"{getattr(e, name):,}" for e in environments)

    def sessions(name: str) -> str:
        found = ((getattr(s, name) for s in e.sessions) for e in environments)
        return values(", ".join(dict.fromkeys("not recorded" if v is None else str(v) for v in each)) for each in found)

    seeds = {group.label: ", ".join(str(run.config.seed) for run in group.runs) for group in study.groups}
    alike = len(set(seeds.values())) == 1
    started = [moment(session.started) for session in study.sessions if session.started]
    training = sum(run.result.train_seconds for run in runs)
    evaluating = sum(epoch.evaluation_seconds for run in runs for epoch in run.epochs)
    rows = {
        "seeds": next(iter(seeds.values())) if alike else "; ".join(f"{k}: {v}" for k, v in seeds.items()),
        "images for training": images("train_images"),
        "images for validation": images("validation_images"),
        "images for testing": images("test_images"),
        "parameters": images("parameters"),
        "device": sessions("device_name"),
        "processes": sessions("processes"),
        "threads": sessions("threads"),
        "precision": field("precision"),
        "platform": field("platform"),
        "flatnext": field("flatnext"),
        "commit": sessions("commit"),
        "torch": sessions("torch"),
        "numpy": field("numpy"),
        "python": field("python"),
        "first and last start": span(started) if started else "not recorded",
        "time, all runs together": f"{duration(training)} in training, {duration(evaluating)} in evaluation",
    }
    for name, usual in (("processes", "1"), ("commit", "not recorded")):
        if rows[name] == usual:
            del rows[name]
    return Table("Data, machine and versions", (), tuple(rows.items()), numeric=False)


def _measurements(study: Study) -> list[Block]:
    """Return how the evidence was measured: settings, machine, date, time and command of each measurement."""
    rows = []
    for name in PARTS:
        parts = [part for run in study.runs if run.evidence and (part := getattr(run.evidence, name)) is not None]
        if not parts:
            continue
        made = [part.made for part in parts]
        machines = (f"{m.device}, {counted(m.threads, 'thread')}, torch {m.torch}" for m in made)
        rows.append(
            (
                name.replace("_", " "),
                _first(_settings(part.settings) for part in parts),
                _first(machines),
                span(sorted(moment(m.date) for m in made)),
                f"{duration(sum(m.seconds for m in made))} for {counted(len(parts), 'run')}",
                _first(m.command for m in made),
            )
        )
    header = ("measurement", "settings", "machine", "date", "time", "command")
    caption = "How the evidence was measured"
    table = Table(caption, header, tuple(rows), numeric=False, stacked=True)
    return [Details(caption, (table,))] if rows else []


def _settings(settings: Mapping[str, Any]) -> str:
    """Return the settings that say anything: no empty list, and nothing that was not given."""
    given = {name: value for name, value in settings.items() if value not in (None, [], {})}
    return ", ".join(f"{name} {setting_text(value)}" for name, value in given.items())


def _first(texts: Iterable[str]) -> str:
    """Return the first text, with the number of different others."""
    different = [text for text in dict.fromkeys(texts) if text]
    others = f" (and {counted(len(different) - 1, 'other')})" if len(different) > 1 else ""
    return f"{different[0]}{others}" if different else DASH
