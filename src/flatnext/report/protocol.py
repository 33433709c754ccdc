"""The report's parts on what was run: settings, environment, runs left out, and how to read the statistics."""

from __future__ import annotations

from collections import Counter

from flatnext.report.blocks import Code, Details, Section, Table, Text
from flatnext.report.numbers import duration, listing, moment
from flatnext.study.statistics import DRAWS, EXACT_UP_TO
from flatnext.study.table import Study, setting_text

DATASETS = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "digits": "handwritten digits",
    "folder": "a folder of images",
}


def dataset(study: Study) -> str:
    """Return the data set's name as people write it."""
    name = study.groups[0].config.data.dataset
    return DATASETS.get(name, name)


def differing(study: Study) -> dict[str, tuple[str, ...]]:
    """Return the settings, as text, that are not the same in all groups."""
    texts = {name: tuple(map(setting_text, values)) for name, values in study.settings.items()}
    return {name: values for name, values in texts.items() if len(set(values)) > 1}


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
    machines = {
        (e.device_name, e.precision, e.torch) for group in study.groups for e in (run.environment for run in group.runs)
    }
    if len(machines) > 1:
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
    if not besides:
        return "The recipes differ in the method and its settings alone."
    if not several:
        return f"The recipes differ in {listing(besides)}."
    return f"The recipes differ in {listing(besides)} too: the comparison is of recipes, not of methods alone."


def protocol(study: Study) -> Section:
    """Return what was run: settings, seeds, images, versions, device, time and commands."""
    labels = tuple(group.label for group in study.groups)
    differ = differing(study)
    common = [(name, setting_text(values[0])) for name, values in study.settings.items() if name not in differ]
    commands = study.commands or tuple(
        dict.fromkeys(command for group in study.groups for run in group.runs for command in run.environment.commands)
    )
    blocks: list[Text | Code | Table | Details] = [Code(tuple(command for command in commands if command))]
    if differ:
        rows = tuple((name, *values) for name, values in differ.items())
        blocks.append(Table("Settings that differ between the recipes", ("setting", *labels), rows, numeric=False))
    rows = tuple((name, value) for name, value in common)
    summary = f"The {len(rows)} settings that all recipes share" if len(labels) > 1 else f"The {len(rows)} settings"
    blocks.append(Details(summary, (Table("Settings of all recipes", (), rows, numeric=False),)))
    blocks.append(_environment(study))
    return Section("protocol", "What was run", tuple(blocks))


def _environment(study: Study) -> Table:
    """Return the runs' environments; where they are not all the same, each value with the number of its runs."""
    runs = [run for group in study.groups for run in group.runs]
    environments = [run.environment for run in runs]

    def values(texts: list[str]) -> str:
        counts = Counter(texts)
        many = len(counts) > 1
        return "; ".join(f"{text} ({count} of {len(runs)} runs)" if many else text for text, count in counts.items())

    started = sorted(moment(time) for environment in environments for time in environment.started if time)
    dates = " to ".join(dict.fromkeys((started[0], started[-1]))) if started else "not recorded"
    training = sum(run.result.train_seconds for run in runs)
    evaluating = sum(epoch.evaluation_seconds for run in runs for epoch in run.epochs)
    by_group = {group.label: ", ".join(str(run.config.seed) for run in group.runs) for group in study.groups}
    seeds = "; ".join(f"{label}: {text}" for label, text in by_group.items())
    if len(set(by_group.values())) == 1:
        seeds = next(iter(by_group.values()))
    rows = (
        ("seeds", seeds),
        ("images for training", values([f"{e.train_images:,}" for e in environments])),
        ("images for validation", values([f"{e.validation_images:,}" for e in environments])),
        ("images for testing", values([f"{e.test_images:,}" for e in environments])),
        ("parameters", values([f"{e.parameters:,}" for e in environments])),
        ("device", values([f"{e.device_name} ({e.device})" for e in environments])),
        ("threads", values([str(e.threads) for e in environments])),
        ("precision", values([e.precision for e in environments])),
        ("platform", values([e.platform for e in environments])),
        ("flatnext", values([e.flatnext for e in environments])),
        ("torch", values([e.torch for e in environments])),
        ("numpy", values([e.numpy for e in environments])),
        ("python", values([e.python for e in environments])),
        ("first and last start", dates),
        ("time, all runs together", f"{duration(training)} in training, {duration(evaluating)} in evaluation"),
    )
    return Table("Data, machine and versions", (), rows, numeric=False)


def left_out(study: Study) -> Section:
    """Return the runs that are not in the statistics, each with the reason."""
    rows = tuple((run.name, run.reason) for run in study.left_out)
    table = Table("Runs that are in no table and no figure above", ("run", "why"), rows, numeric=False)
    return Section("left-out", "Runs left out", (table,))


def reading(study: Study) -> Section:
    """Return how the figures came about."""
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
    return Section("reading", "How to read this", tuple(map(Text, texts)))
