"""The report's parts on test accuracy and on what training cost."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

from matplotlib.axes import Axes

from flatnext.report.blocks import Block, Figure, Panel, Section, Table, Text
from flatnext.report.drawing import color_of, literal, panel
from flatnext.report.numbers import interval, probability
from flatnext.report.svg import INK, PAPER, QUIET
from flatnext.report.tables import BY_IMAGES, by_images, mean, quantity_table
from flatnext.runs.class_balance import class_sizes, majority
from flatnext.runs.scores import Confusion
from flatnext.study.contrasts import Contrast
from flatnext.study.groups import Group
from flatnext.study.quantities import Quantity
from flatnext.study.statistics import ALPHA, FEWEST_FOR_SIGN_FLIPS, MOST_SEEDS, POWER, Comparison, points
from flatnext.study.study import Study
from flatnext.words import DASH, decimal, duration

SCORES = ("balanced_accuracy", "accuracy", "loss", "accuracy.best", "loss.best")

DEPLOY = (
    "Deploy a recipe's last epoch (last.safetensors), which all comparisons here are of; its best epoch "
    "(best.safetensors) only where the accuracy on the validation split fell towards the end."
)


def accuracy(study: Study) -> Section:
    """Return the comparison with the baseline, and accuracy and loss of the last and the best epoch."""
    hidden = () if study.uneven else ("balanced_accuracy",)
    scores = [q for split in ("test", "validation") for q in study.select(*SCORES, split=split)]
    scores = [quantity for quantity in scores if quantity.measure.id not in hidden]
    blocks = [
        _recipes(study),
        *map(Text, _readings(study)),
        *_comparison(study),
        *quantity_table(study, "Scores", "measure", scores),
        _by_seed(study),
    ]
    if not study.select("accuracy.best"):
        blocks.append(
            Text("There was no validation split, so that no epoch could be chosen: only the last one counts.")
        )
    return Section("accuracy", "Test accuracy", tuple(blocks))


def cost(study: Study) -> Section:
    """Return what training cost, without evaluation; a run counts by its median epoch, which a pause does not move."""
    measures = ("seconds_per_epoch", "images_per_second", "train_seconds")
    blocks = quantity_table(study, "Time in training, without evaluation", "measure", study.select(*measures))
    for contrast in study.contrasts:
        same = contrast.group.config.epochs == contrast.baseline.config.epochs
        what, measure = ("An epoch", "seconds_per_epoch") if same else ("A run", "train_seconds")
        for seconds in study.select(measure):
            ours, theirs = (seconds.estimate(recipe) for recipe in contrast.recipes)
            if ours and theirs and theirs.mean and not seconds.problem(*contrast.recipes):
                ratio = decimal(ours.mean / theirs.mean, 2)
                recipe, baseline = contrast.recipes
                blocks.append(Text(f"{what} of {recipe} takes {ratio} times as long as one of {baseline}."))
    return Section("cost", "Cost", tuple(blocks))


def _recipes(study: Study) -> Table:
    """Return accuracy and cost of each recipe, and below them the accuracy of always answering the largest class."""
    confusion, classes = _confusion(study), study.runs[0].environment.classes
    columns: dict[str, Callable[[Group], str]] = {
        "n": lambda group: str(len(study.headline.values(group.label))),
        f"{accuracy_name(study)} (%)": lambda group: _with_images(study.headline, group.label),
        "95 % interval": lambda group: _interval(study.headline, group.label),
        "test accuracy (%)": lambda group: _with_images(study.accuracy, group.label),
        "passes": lambda group: f"{group.config.passes:g}",
        "training a run": lambda group: _training(study, group),
    }
    rows = [(group.label, *(cell(group) for cell in columns.values())) for group in study.groups]
    if confusion:
        largest, share = majority(confusion)
        shares = [points(1 / sum(map(bool, class_sizes(confusion)))), DASH, points(share)]
        always = shares if study.uneven else [points(share), DASH]
        rows.append((f"always “{classes[largest]}”", DASH, *always, DASH, DASH))
    caption = (
        f"Each recipe's {accuracy_name(study)}, last epoch: mean ± standard deviation over seeds, and the 95 % "
        "interval of the mean; what always answering the largest class would reach; and what a run costs: passes "
        "forward and backward over the training images, and time"
    )
    return Table(caption, ("recipe", *columns), tuple(rows), series=tuple(range(len(study.groups))))


def accuracy_name(study: Study) -> str:
    """Return what the headline of a study is called."""
    return "balanced test accuracy" if study.uneven else "test accuracy"


def _readings(study: Study) -> list[str]:
    """Return what to know in reading the table: how few images there are, how uneven the classes, what to deploy."""
    texts = []
    if any(by_images(study.accuracy, label) for label in study.labels):
        texts.append(f"In brackets: {BY_IMAGES}.")
    if study.uneven:
        texts.append(
            "The classes are uneven: recipes are compared by the balanced accuracy, the mean over classes of the share "
            "that was recognised, which counts each class alike."
        )
    return [*texts, DEPLOY]


def _confusion(study: Study) -> Confusion | None:
    return study.runs[0].result.last.test.confusion


def _with_images(quantity: Quantity, recipe: str) -> str:
    return f"{mean(quantity, recipe)}{by_images(quantity, recipe)}"


def _interval(quantity: Quantity, recipe: str) -> str:
    estimate = quantity.estimate(recipe)
    return interval(estimate) if estimate else DASH


def _training(study: Study, group: Group) -> str:
    (quantity,) = study.select("train_seconds")
    seconds = quantity.estimate(group.label)
    return duration(seconds.mean) if seconds else DASH


def _by_seed(study: Study) -> Table:
    values = {recipe: study.headline.values(recipe) for recipe in study.labels}

    def gain(contrast: Contrast, seed: int) -> str:
        recipe, baseline = (values[label].get(seed) for label in contrast.recipes)
        return DASH if recipe is None or baseline is None else points(recipe - baseline, sign=True)

    rows = tuple(
        (
            f"seed {seed}",
            *(points(by_seed[seed]) if seed in by_seed else DASH for by_seed in values.values()),
            *(gain(contrast, seed) for contrast in study.contrasts),
        )
        for seed in sorted({seed for by_seed in values.values() for seed in by_seed})
    )
    header = ("", *study.labels, *(contrast.label for contrast in study.contrasts))
    name = accuracy_name(study).capitalize()
    return Table(f"{name} of each seed (%), last epoch; differences in points", header, rows)


def _comparison(study: Study) -> list[Block]:
    """Return the paired differences with their tests, drawn and in a table."""
    apart = [Text(contrast.sentence) for contrast in study.contrasts if contrast.comparison is None]
    pairs = [(contrast, c) for contrast in study.contrasts if (c := contrast.comparison) is not None]
    if not pairs:
        return [*apart]
    figure = Figure(
        "Each seed's runs, with mean and 95 % interval of each recipe, and their differences: open dots are seeds, the "
        "filled one is the mean with its interval",
        (_seeds_panel(study), _differences_panel(study, pairs)),
    )
    header = ("recipes", "n", "difference (points)", "interval", "p, t-test", "p, Holm", "p, sign flips", "seeds")
    table = Table(
        f"Paired differences in {accuracy_name(study)}, last epoch; seeds: how many would show a difference of this "
        f"size with this spread, by the t-test at the level of the interval (power {100 * POWER:.0f} %)",
        header,
        tuple(_test_row(contrast, comparison) for contrast, comparison in pairs),
        series=tuple(study.groups.index(contrast.group) for contrast, _ in pairs),
    )
    fewest = min((comparison for _, comparison in pairs), key=lambda comparison: comparison.n)
    smallest = fewest.smallest_permutation_p
    note = (
        f"With {fewest.n} seeds the sign-flip test cannot give a p below {smallest:g}, whatever the difference: "
        f"{FEWEST_FOR_SIGN_FLIPS} are the fewest with which it can be below {ALPHA:g}."
    )
    return [
        figure,
        table,
        *([Text(note)] if fewest.n > 1 and smallest >= ALPHA and not study.sequential else []),
        *apart,
    ]


def _test_row(contrast: Contrast, comparison: Comparison) -> tuple[str, ...]:
    return (
        contrast.label,
        str(comparison.n),
        points(comparison.difference.mean, sign=True),
        _level(comparison),
        probability(comparison.p),
        probability(comparison.p_adjusted),
        DASH if comparison.sequential else probability(comparison.p_permutation),  # it does not allow for the looks
        _seeds_needed(comparison),
    )


def _level(comparison: Comparison) -> str:
    """Return `+0.50 to +1.30 (95 %)`."""
    text = interval(comparison.difference.within(-1, 1), sign=True)
    return text if text == DASH else f"{text} ({100 * (1 - comparison.alpha):.4g} %)"


def _seeds_needed(comparison: Comparison) -> str:
    if not comparison.difference.sd or not comparison.difference.mean or comparison.sequential:
        return DASH
    return f"{comparison.seeds_needed or f'> {MOST_SEEDS:,}'}"


def _seeds_panel(study: Study) -> Panel:
    """Draw the accuracies of each recipe with mean and 95 % interval, the runs of a seed joined by a line."""
    labels = study.labels
    accuracies, name = [study.headline.values(label) for label in labels], accuracy_name(study).capitalize()

    def draw(axes: Axes) -> None:
        for seed in sorted({seed for values in accuracies for seed in values}):
            line = [(place, 100 * values[seed]) for place, values in enumerate(accuracies) if seed in values]
            axes.plot(*zip(*line, strict=True), color=QUIET, linewidth=0.8, zorder=1)
        for place, (group, values) in enumerate(zip(study.groups, accuracies, strict=True)):
            percent = [100 * value for value in values.values()]
            axes.scatter([place] * len(percent), percent, color=color_of(study, group), s=22, zorder=2)
            if estimate := study.headline.estimate(group.label):
                bar = [100 * estimate.mean] * 2
                axes.plot([place - 0.14, place + 0.14], bar, color=INK, linewidth=1.6, zorder=3)
                if estimate.low is not None and estimate.high is not None:
                    ends = [100 * estimate.low, 100 * estimate.high]
                    axes.plot([place + 0.14] * 2, ends, color=INK, linewidth=1.6, zorder=3)
        axes.set_xticks(range(len(labels)), [literal(_wrapped(label, max(8, 44 // len(labels)))) for label in labels])
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.grid(visible=False, axis="x")
        axes.margins(y=0.12)

    marks = "a line joins the runs of a seed, a bar is the mean, with its 95 % interval"
    alt = f"{name} of each seed for {', '.join(labels)}; {marks}"
    return panel("seeds", alt, f"{name} (%), one dot a seed", draw)


def _differences_panel(study: Study, pairs: list[tuple[Contrast, Comparison]]) -> Panel:
    """Draw the difference of each contrast: its seeds, mean and interval."""
    baselines = {contrast.baseline.label for contrast, _ in pairs}
    alike = len(baselines) == 1

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=INK, linewidth=0.8)
        for place, (contrast, comparison) in enumerate(pairs):
            color, mean = color_of(study, contrast.group), comparison.difference.within(-1, 1)
            seeds = [100 * value for value in comparison.differences]
            axes.scatter(seeds, [place + 0.22] * len(seeds), edgecolor=color, facecolor=PAPER, s=16, linewidth=1)
            if mean.low is not None and mean.high is not None:
                axes.plot([100 * mean.low, 100 * mean.high], [place, place], color=color, linewidth=2)
            label = points(mean.mean, sign=True)
            axes.annotate(label, (100 * mean.mean, place), (0, 7), textcoords="offset points", ha="center", color=INK)
            axes.scatter([100 * mean.mean], [place], color=color, s=36, zorder=3)
        names = [c.group.label if alike else c.label for c, _ in pairs]
        axes.set_yticks(range(len(pairs)), [literal(_wrapped(name, 14)) for name in names])
        axes.set_ylim(len(pairs) - 0.3, -0.7)
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.1)
        axes.set_xlabel("percentage points; right of 0 is better")

    to = f" to {pairs[0][0].baseline.label}" if alike else ""
    texts = [f"{contrast.label} {points(c.difference.mean, sign=True)}" for contrast, c in pairs]
    alt = f"Difference in {accuracy_name(study)}{to}, in points: {', '.join(texts)}, with intervals"
    return panel("differences", alt, f"Difference{to}: seeds, mean, interval", draw)


def _wrapped(label: str, width: int) -> str:
    return textwrap.fill(label, width, break_long_words=False)
