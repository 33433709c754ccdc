"""The report's parts on what was run: settings, environment, runs left out, and how to read the statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import fields

from flatnext.config import Perturbation
from flatnext.durations import duration
from flatnext.report.blocks import Block, Code, Details, Section, Table, Text
from flatnext.report.numbers import listing, moment
from flatnext.study.statistics import DRAWS, EXACT_UP_TO
from flatnext.study.table import Study, setting_text

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


def differing(study: Study) -> dict[str, tuple[str, ...]]:
    """Return the settings, as text, that are not the same in all groups; a dash where a group has no such setting."""
    found = {}
    for name, values in study.settings.items():
        meant = [ABSENT.get(name) if value is None else value for value in values]
        if any(value != meant[0] for value in meant):
            found[name] = tuple(map(setting_text, values))
    return found


def remarks(study: Study) -> tuple[str, ...]:
    """Return what to know in reading the verdict: a subset of the data, differences beside the method, missing runs."""
    found = []
    subsets = [group for group in study.groups if group.config.data.train_images is not None]
    if subsets:
        counts = sorted({run.environment.train_images for group in subsets for run in group.runs})
        which = "" if len(subsets) == len(study.groups) else f" ({listing(group.label for group in subsets)})"
        found.append(
            f"Trained on a subset of {dataset(study)}{which}: {listing(f'{count:,}' for count in counts)} images. "
            "Accuracies are not those of the full training set."
        )
    if study.contrasts:
        found.append(_beside_the_method(study))
    environments = [run.environment for run in study.runs]
    if len({(s.device_name, e.precision, s.torch) for e in environments for s in e.sessions}) > 1:
        found.append(
            "The runs were not all made with the same device, precision and version of torch; see What was run."
        )
    if study.left_out:
        number = len(study.left_out)
        found.append(f"{number} run{'s are' if number > 1 else ' is'} not in the statistics; see Runs left out.")
    return tuple(found)


def _beside_the_method(study: Study) -> str:
    methods = [group.config.to_json()["method"] for group in study.groups]
    several = len({method["name"] for method in methods}) > 1
    own = {"method", *(name for method in methods for name in method)} if several else set()
    besides = [name for name in differing(study) if name not in own]
    if not several:
        return f"The recipes differ in {listing(besides)}." if besides else "The recipes have the same settings."
    if not besides:
        return "The recipes differ in the method and its settings alone."
    return f"The recipes differ in {listing(besides)} too: the comparison is of recipes, not of methods alone."


def protocol(study: Study) -> Section:
    """Return what was run: settings, seeds, images, versions, device, time and commands."""
    labels = tuple(group.label for group in study.groups)
    differ = differing(study)
    blocks: list[Block] = [Code(study.commands)] if study.commands else []
    if differ:
        rows = tuple((name, *values) for name, values in differ.items())
        blocks.append(Table("Settings that differ between the recipes", ("setting", *labels), rows, numeric=False))
    common = {name: values for name, values in study.settings.items() if name not in differ}
    values = [next((value for value in values if value is not None), None) for values in common.values()]
    rows = tuple(zip(common, map(setting_text, values), strict=True))
    several = " in which the recipes do not differ" if len(labels) > 1 else ""
    blocks.append(
        Details(f"The {len(rows)} settings{several}", (Table(f"Settings{several}", (), rows, numeric=False),))
    )
    blocks.append(_environment(study))
    return Section("protocol", "What was run", tuple(blocks))


def _environment(study: Study) -> Table:
    """Return the runs' environments; where they are not all the same, each value with the number of its runs."""
    runs = study.runs
    environments = [run.environment for run in runs]

    def values(texts: Iterable[str]) -> str:
        counts = Counter(texts)
        many = len(counts) > 1
        return "; ".join(f"{text} ({count} of {len(runs)} runs)" if many else text for text, count in counts.items())

    def sessions(field: str) -> str:
        return values(", ".join(dict.fromkeys(str(getattr(s, field)) for s in e.sessions)) for e in environments)

    started = [moment(session.started) for session in study.sessions if session.started]
    dates = " to ".join(dict.fromkeys((started[0], started[-1]))) if started else "not recorded"
    training = sum(run.result.train_seconds for run in runs)
    evaluating = sum(epoch.evaluation_seconds for run in runs for epoch in run.epochs)
    processes = sessions("processes")
    rows = (
        ("seeds", _seeds(study)),
        ("images for training", values(f"{e.train_images:,}" for e in environments)),
        ("images for validation", values(f"{e.validation_images:,}" for e in environments)),
        ("images for testing", values(f"{e.test_images:,}" for e in environments)),
        ("parameters", values(f"{e.parameters:,}" for e in environments)),
        ("device", sessions("device_name")),
        *((("processes", processes),) if processes != "1" else ()),
        ("threads", sessions("threads")),
        ("precision", values(e.precision for e in environments)),
        ("platform", values(e.platform for e in environments)),
        ("flatnext", values(e.flatnext for e in environments)),
        ("torch", sessions("torch")),
        ("numpy", values(e.numpy for e in environments)),
        ("python", values(e.python for e in environments)),
        ("first and last start", dates),
        ("time, all runs together", f"{duration(training)} in training, {duration(evaluating)} in evaluation"),
    )
    return Table("Data, machine and versions", (), rows, numeric=False)


def _seeds(study: Study) -> str:
    by_group = {group.label: ", ".join(str(run.config.seed) for run in group.runs) for group in study.groups}
    if len(set(by_group.values())) == 1:
        return next(iter(by_group.values()))
    return "; ".join(f"{label}: {text}" for label, text in by_group.items())


def left_out(study: Study) -> Section:
    """Return the runs that are not in the statistics, each with the reason."""
    rows = tuple((run.name, run.reason) for run in study.left_out)
    table = Table("Runs that are in no table and no figure above", ("run", "why"), rows, numeric=False)
    return Section("left-out", "Runs left out", (table,))


def reading(study: Study, more: Iterable[str] = ()) -> Section:
    """Return how the figures came about, with `more` paragraphs in the end."""
    texts = [
        "Last is the network after the last epoch. Best is the network after the epoch with the highest accuracy on "
        "the validation split, which is held out of the training set. The test set chose nothing: test curves were "
        "only drawn.",
        "Recipes are compared within a seed, on the test accuracy of the last epoch: with the same model and data a "
        "seed gives both the same initial weights and the same order of images. The verdict and the 95 % interval are "
        "those of the paired t-test; ± is the standard deviation between seeds (n − 1). The statistics are about "
        "seeds: another split or another test set is another source of chance, which they do not see.",
        "The sign-flip test is a permutation test on the same differences, two-sided: it goes through all patterns of "
        f"signs up to {EXACT_UP_TO} seeds and draws {DRAWS:,} beyond. With n seeds its p cannot be below 2 / 2ⁿ, so "
        "that fewer than 6 seeds cannot bring it below 0.05.",
        "Training curves are means over an epoch while the weights change, on augmented images and with label "
        "smoothing where the recipe has it; test curves are taken after the epoch. Lines are means over seeds, bands "
        "reach from the smallest to the largest. A loss far above that of a guess, as the first epochs may have, runs "
        "out of its panel at the top.",
    ]
    if len(study.contrasts) > 1:
        texts.append(
            "Holm's correction makes p larger, for the number of comparisons; the intervals are not corrected."
        )
    return Section("reading", "How to read this", tuple(map(Text, (*texts, *more))))
