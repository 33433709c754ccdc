"""The report's part on robustness: accuracy on corrupted images, under attack, and on other test sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from flatnext.report.blocks import Block, Figure, Panel, Table, Text
from flatnext.report.drawing import Band, Line, band, color_of, panel, plot
from flatnext.report.tables import folded, quantity_table
from flatnext.runs.evidence import Attacks
from flatnext.study.measurements import PUBLISHED
from flatnext.study.measures import NORMS, SPLITS
from flatnext.study.quantities import Quantity
from flatnext.study.study import Study
from flatnext.words import DASH, counted, decimal, listing

FEWEST = 3
"""Points that make a line, that of the images as they are among them."""

CORRUPTED = {"test": "generated images", PUBLISHED: "images as published"}


@dataclass(frozen=True)
class _Chart:
    """One panel: accuracy by severity or by budget."""

    title: str
    along: str
    quantities: Sequence[Quantity]


def figures(study: Study) -> list[Block]:
    """Return a figure for corruptions and one for attacks, or say that they were measured with different settings."""
    corruptions = [
        _Chart(f"Corruptions, {title}", "severity", study.select("corruptions.mean", split=split, at=True))
        for split, title in CORRUPTED.items()
    ]
    # FGSM is weaker, and AutoAttack is run at one budget; the table has both.
    clean = study.select("attack.none")
    attacks = [
        _Chart(f"PGD, {norm}", "budget in 1/255", [*clean, *study.select(f"attack.pgd.{name}")])
        for name, norm in NORMS.items()
    ]
    return [
        *_figure(study, "corruptions", "Accuracy on corrupted test images, mean over the corruptions", corruptions),
        *_figure(study, "attacks", "Accuracy under attack", attacks),
    ]


def tables(study: Study) -> list[Block]:
    """Return the tables, folded away."""
    corruptions: list[Block] = []
    for split, images in CORRUPTED.items():
        for title, corner, quantities in (
            ("Accuracy, mean over corruptions", "measure", study.select("corruptions.*", split=split)),
            ("Accuracy by corruption, mean over severities", "corruption", study.select("corruption.*", split=split)),
        ):
            shown = [q for q in quantities if q.at is None or q.measure.id == "corruptions.mean"]
            corruptions += quantity_table(study, f"{title}, {images}", corner, shown)
    others = [q for q in study.select("accuracy", "loss") if q.split not in SPLITS]
    seconds = [("seconds", lambda quantity: _seconds(study, quantity))]
    attacks = quantity_table(study, "Accuracy under attack", "attack", study.select("attack.*", "lost.*"), seconds)
    return [
        *folded("Corruptions", corruptions),
        *folded("Attacks", [*attacks, *_checks(study)] if attacks else []),
        *folded("Other test sets", quantity_table(study, "Other test sets", "measure", others)),
    ]


def failed_checks(study: Study) -> int:
    """Return how many sanity checks of the attacks failed, over all runs."""
    return sum(not check.passed for _, result in _attacks(study) for check in result.checks)


def accuracy_by(quantities: Sequence[Quantity], recipe: str) -> Band | None:
    """Return the band of the accuracies of a recipe by severity or budget, in per cent."""
    values = {q.at or 0.0: [100 * value for value in q.values(recipe).values()] for q in quantities}
    return band({at: percent for at, percent in values.items() if percent})


def _figure(study: Study, name: str, title: str, charts: Sequence[_Chart]) -> list[Block]:
    charts = [chart for chart in charts if len(chart.quantities) >= FEWEST]
    if not charts:
        return []
    quantities = [quantity for chart in charts for quantity in chart.quantities]
    if any(quantity.problem() for quantity in quantities):
        return [Text(f"{title} is not drawn: it was measured with different settings.")]
    images = listing(f"{count:,}" for count in sorted({count for q in quantities for count in q.images()}))
    caption = (
        f"{title}, {images} images a seed: mean over seeds, the bands from the smallest to the largest; at 0 the "
        "images as they are"
    )
    return [Figure(caption, tuple(_panel(study, f"{name}-{number}", chart) for number, chart in enumerate(charts)))]


def _panel(study: Study, name: str, chart: _Chart) -> Panel:
    bands = [(group, accuracy_by(chart.quantities, group.label)) for group in study.groups]
    lines = [Line(group.label, color_of(study, group), values) for group, values in bands if values]

    def draw(axes: Axes) -> None:
        plot(axes, lines)
        axes.set_ylim(0, 100)
        axes.set_xlabel(chart.along)
        axes.legend(loc="best")

    alt = f"{chart.title}: accuracy by {chart.along}, for {listing(line.label for line in lines)}"
    return panel(name, alt, f"{chart.title}: accuracy (%)", draw)


def _attacks(study: Study) -> list[tuple[str, Attacks]]:
    return [(run.name, run.evidence.attacks.result) for run in study.runs if run.evidence and run.evidence.attacks]


def _seconds(study: Study, quantity: Quantity) -> str:
    """Return the seconds that an attack took, mean over all runs."""
    which = (quantity.measure.name, quantity.measure.norm, quantity.at)
    seconds = [
        attack.seconds
        for _, result in _attacks(study)
        for attack in result.attacks
        if (attack.attack, attack.norm, attack.budget) == which
    ]
    return decimal(sum(seconds) / len(seconds), 1) if seconds else DASH


def _checks(study: Study) -> list[Block]:
    """Return a line where all sanity checks passed, else those that failed with what they looked at."""
    checks = [(name, check) for name, result in _attacks(study) for check in result.checks]
    if not checks:
        return [Text("No sanity checks were made: whether the attacks are weak is not known.")]
    rows = tuple(
        (check.name, name, ", ".join(f"{k} {DASH if v is None else f'{v:g}'}" for k, v in check.values.items()))
        for name, check in checks
        if not check.passed
    )
    if not rows:
        return [Text(f"All {counted(len(checks), 'sanity check')} of the attacks passed.")]
    caption = f"{len(rows)} of {len(checks)} sanity checks failed: the accuracies under attack may be too high"
    return [Table(caption, ("check", "run", "values"), rows, numeric=False)]
