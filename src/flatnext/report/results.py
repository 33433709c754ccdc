"""The report's parts on what came out: accuracy, comparison, curves, classes, cost, mistakes."""

from __future__ import annotations

from statistics import median

from flatnext.durations import duration
from flatnext.report import figures
from flatnext.report.blocks import Block, Figure, Gallery, Picture, Section, Table, Text
from flatnext.report.numbers import DASH, certainty, interval, listing, mean_sd, optional, probability, span
from flatnext.study.statistics import ALPHA, Comparison, Estimate, estimate, points
from flatnext.study.table import Contrast, Group, Study

SHOWN_MISTAKES = 12


def accuracy(study: Study) -> Section:
    """Return test accuracy and loss of the last epoch, of the best on the validation split, and of each seed."""
    blocks: list[Block] = [_scores(study, "last", "Last epoch")]
    if any(group.checkpoints("best") for group in study.groups):
        blocks.append(_scores(study, "best", "Best epoch on the validation split"))
    else:
        blocks.append(
            Text("There was no validation split, so that no epoch could be chosen: only the last one counts.")
        )
    evaluations = [c.test for which in ("last", "best") for g in study.groups for c in g.checkpoints(which).values()]
    if any(scores.loss is None for scores in evaluations):
        blocks.append(Text("A dash in place of a test loss: it was not finite in each seed, so that it has no mean."))
    blocks.append(_by_seed(study))
    return Section("accuracy", "Test accuracy", tuple(blocks))


def _scores(study: Study, which: str, caption: str) -> Table:
    rows, series = [], []
    for number, group in enumerate(study.groups):
        if not (checkpoints := group.checkpoints(which).values()):
            continue
        found = estimate(c.test.accuracy for c in checkpoints)
        losses = [c.test.loss for c in checkpoints if c.test.loss is not None]
        held_out = [c.validation.accuracy for c in checkpoints if c.validation is not None]
        rows.append(
            (
                group.label,
                str(found.n),
                mean_sd(found, 100),
                interval(found),
                mean_sd(estimate(losses), digits=4) if len(losses) == len(checkpoints) else DASH,
                mean_sd(estimate(held_out), 100) if held_out else DASH,
                span(c.epoch for c in checkpoints),
            )
        )
        series.append(number)
    header = ("recipe", "n", "test accuracy (%)", "95 % interval", "test loss", "validation accuracy (%)", "epoch")
    return Table(f"{caption}: mean ± standard deviation over seeds", header, tuple(rows), series=tuple(series))


def _by_seed(study: Study) -> Table:
    values = [group.accuracy() for group in study.groups]
    seeds = sorted({seed for by_seed in values for seed in by_seed})
    contrasts = [(c.group.accuracy(), c.baseline.accuracy()) for c in study.contrasts]
    rows = tuple(
        (
            f"seed {seed}",
            *(points(v[seed]) if seed in v else DASH for v in values),
            *(points(a[seed] - b[seed], sign=True) if seed in a and seed in b else DASH for a, b in contrasts),
        )
        for seed in seeds
    )
    differences = (f"{c.group.label} − {c.baseline.label}" for c in study.contrasts)
    header = ("", *(group.label for group in study.groups), *differences)
    return Table("Test accuracy of each seed (%), last epoch; differences in points", header, rows)


def comparison(study: Study) -> Section:
    """Return the paired differences with their tests, drawn and in a table."""
    compared = [(contrast, c) for contrast in study.contrasts if (c := contrast.comparison) is not None]
    apart = [Text(contrast.sentence) for contrast in study.contrasts if contrast.comparison is None]
    if not compared:
        return Section("comparison", "Comparison", tuple(apart))
    figure = Figure(
        "Each seed's runs, and their differences: open dots are seeds, the filled one is the mean with its interval",
        (figures.seeds(study), figures.differences(study)),
    )
    corrected = max(found.family for _, found in compared) > 1
    header = ("recipes", "n", "difference (points)", "95 % interval", "t", "p, t-test", "p, sign flips")
    table = Table(
        "Paired differences in test accuracy, last epoch",
        (*header, "p, t-test, Holm") if corrected else header,
        tuple(_test_row(contrast, found, corrected) for contrast, found in compared),
        series=tuple(study.groups.index(contrast.group) for contrast, _ in compared),
    )
    fewest = min((found for _, found in compared), key=lambda found: found.n)
    smallest = fewest.smallest_permutation_p
    note = f"With {fewest.n} seeds the sign-flip test cannot give a p below {smallest:g}, whatever the difference."
    notes = [Text(note)] if fewest.n > 1 and smallest >= ALPHA else []
    return Section("comparison", "Comparison", (figure, table, *notes, *apart))


def _test_row(contrast: Contrast, found: Comparison, corrected: bool) -> tuple[str, ...]:
    return (
        f"{contrast.group.label} − {contrast.baseline.label}",
        str(found.n),
        points(found.difference.mean, sign=True),
        interval(found.difference, sign=True),
        optional(found.t, 2),
        probability(found.p),
        probability(found.p_permutation),
        *((probability(found.p_adjusted),) if corrected else ()),
    )


def curves(study: Study) -> Section:
    """Return the curves of all recipes together, then of each."""
    measured = [group for group in study.groups if any(run.epochs for run in group.runs)]
    if not measured:
        return Section("curves", "Curves", (Text("The runs hold no metrics, so that there are no curves to draw."),))
    blocks: list[Block] = [
        Figure(f"{group.label}: loss and accuracy, mean over seeds", figures.recipe_curves(study, group))
        for group in measured
    ]
    if len(measured) > 1:
        blocks.insert(0, Figure("All recipes: loss and accuracy, mean over seeds", figures.all_curves(study, measured)))
    if len(measured) < len(study.groups):
        bare = listing(group.label for group in study.groups if group not in measured)
        blocks.append(Text(f"Not drawn, since its runs hold no metrics: {bare}."))
    return Section("curves", "Curves", tuple(blocks))


def cost(study: Study) -> Section:
    """Return seconds an epoch and images a second; a run counts by its median epoch, which a pause does not move."""
    rows = []
    baseline = _median(study.baseline, "train_seconds") if study.baseline else None
    for group in study.groups:
        seconds, speed = _median(group, "train_seconds"), _median(group, "images_per_second")
        total = estimate(run.result.train_seconds for run in group.runs)
        ratio = f"{seconds.mean / baseline.mean:.2f}" if seconds and baseline and baseline.mean else DASH
        cells = (mean_sd(seconds) if seconds else DASH, mean_sd(speed, digits=1) if speed else DASH)
        rows.append((group.label, *cells, ratio, duration(total.mean)))
    header = ("recipe", "seconds an epoch", "images a second", "time, × baseline", "training a run")
    caption = "Time in training, without evaluation: mean ± standard deviation over seeds"
    return Section("cost", "Cost", (Table(caption, header, tuple(rows), series=tuple(range(len(rows)))),))


def _median(group: Group, field: str) -> Estimate | None:
    medians = [median(getattr(epoch, field) for epoch in run.epochs) for run in group.runs if run.epochs]
    return estimate(medians) if medians else None


def mistakes(study: Study) -> Section:
    """Return each recipe's misclassified test images with the highest confidence over its seeds."""
    galleries = [gallery for number, group in enumerate(study.groups) if (gallery := _gallery(number, group))]
    text = Text("Test images that the last epoch's network got wrong, with the confidence it gave to the wrong class.")
    none = Text("No misclassified image was recorded.")
    return Section("mistakes", "The surest mistakes", (text, *galleries) if galleries else (none,))


def _gallery(number: int, group: Group) -> Gallery | None:
    classes = group.runs[0].environment.classes
    surest = sorted(
        ((mistake, run.config.seed) for run in group.runs for mistake in run.result.mistakes),
        key=lambda pair: (-pair[0].confidence, pair[0].index, pair[1]),
    )
    once = {mistake.index: (mistake, seed) for mistake, seed in reversed(surest)}
    chosen = [pair for pair in surest if once[pair[0].index] == pair][:SHOWN_MISTAKES]
    pictures = tuple(
        Picture(
            name=f"mistake-{number}-{mistake.index}",
            alt=f"test image {mistake.index}",
            png=mistake.png,
            lines=(
                f"is {classes[mistake.label]}",
                f"taken for {classes[mistake.predicted]}",
                f"{certainty(mistake.confidence)}, seed {seed}",
            ),
        )
        for mistake, seed in chosen
    )
    runs = "one run" if len(group.runs) == 1 else f"{len(group.runs)} runs"
    return Gallery(f"{group.label}: the surest mistakes of {runs}", pictures) if pictures else None
