"""Tables of quantities: each recipe's mean and spread, and the paired differences to the baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from flatnext.report.blocks import Block, Details, Table, Text
from flatnext.report.numbers import decimals, interval, mean_sd, probability
from flatnext.study.quantities import Quantity
from flatnext.study.statistics import Comparison, wilson
from flatnext.study.study import Study
from flatnext.words import DASH, decimal

Column = tuple[str, Callable[[Quantity], str]]
"""A column: its header, and what it says of a quantity."""

FEW_IMAGES = 5000
"""An accuracy on fewer images has its binomial interval beside it."""

BY_IMAGES = "the mean's 95 % interval by chance in which images were drawn, which are few (Wilson's)"

COLUMNS: tuple[Column, ...] = (
    ("images", lambda quantity: " or ".join(f"{count:,}" for count in quantity.images()) or DASH),
    ("precision", lambda quantity: " or ".join(quantity.precisions) or DASH),
    ("n", lambda quantity: ", ".join(dict.fromkeys(str(len(quantity.values(recipe))) for recipe in quantity.rows))),
)
"""What is the same in all rows of most tables: then the caption says it."""


def digits(quantity: Quantity) -> int:
    """Return the decimals of a quantity: the measure's own, or as many as show three digits of the largest mean."""
    if quantity.measure.digits is not None:
        return quantity.measure.digits
    estimates = [quantity.estimate(recipe) for recipe in quantity.rows]
    return decimals(quantity.measure.scale * estimate.mean for estimate in estimates if estimate)


def unit(quantity: Quantity) -> str:
    """Return ` (%)`, or nothing."""
    return f" ({quantity.measure.unit})" if quantity.measure.unit else ""


def mean(quantity: Quantity, recipe: str) -> str:
    """Return mean ± standard deviation of a recipe, in the measure's unit."""
    estimate = quantity.estimate(recipe)
    return mean_sd(estimate, quantity.measure.scale, digits(quantity)) if estimate else DASH


def by_images(quantity: Quantity, recipe: str) -> str:
    """Return ` (26.6 to 51.9)`, the binomial interval of an accuracy on few images; nothing for what is none."""
    estimate, images = quantity.estimate(recipe), quantity.images(recipe)
    if not quantity.measure.proportion or estimate is None or len(images) != 1 or images[0] >= FEW_IMAGES:
        return ""
    low, high = (decimal(100 * end, 1) for end in wilson(estimate.mean, images[0]))
    return f" ({low} to {high})"


def difference(quantity: Quantity, comparison: Comparison | None) -> tuple[str, str]:
    """Return the mean difference with its sign and its interval, in the measure's unit (of per cent: points)."""
    if comparison is None:
        return DASH, DASH
    scale, places = quantity.measure.scale, digits(quantity)
    low, high = quantity.measure.bounds
    mean = decimal(scale * comparison.difference.mean, places, sign=True)
    return mean, interval(comparison.difference.within(low - high, high - low), scale, places, sign=True)


def quantity_table(
    study: Study, title: str, corner: str, quantities: Sequence[Quantity], extra: Sequence[Column] = ()
) -> list[Block]:
    """Return quantities by recipe, and below what was not compared and why; nothing where there are none.

    A number of images or of seeds that is the same in all rows is said in the caption.
    """
    if not quantities:
        return []
    cells = {name: [cell(quantity) for quantity in quantities] for name, cell in COLUMNS}
    same = {name: texts[0] for name, texts in cells.items() if len(set(texts)) == 1}
    columns = [*((name, cell) for name, cell in COLUMNS if name not in same)]
    header = [corner, *(name for name, _ in columns), *study.labels]
    for contrast in study.contrasts:
        header += [contrast.label, "interval", "p"]
    header += [name for name, _ in extra]
    rows = []
    for quantity in quantities:
        row = [f"{quantity.label}{unit(quantity)}", *(cell(quantity) for _, cell in columns)]
        row += [f"{mean(quantity, recipe)}{by_images(quantity, recipe)}" for recipe in study.labels]
        row += [
            cell for comparison in study.compare(quantity, study.contrasts) for cell in _compared(quantity, comparison)
        ]
        rows.append((*row, *(cell(quantity) for _, cell in extra)))
    return [
        Table(_caption(study, title, same, quantities), tuple(header), tuple(rows)),
        *_not_compared(study, quantities),
    ]


def intervals(family: int) -> str:
    """Return what the interval and the p of so many comparisons of one question are."""
    if family == 1:
        return "95 % interval and p of the t-test"
    return f"interval and p of the t-test, corrected for {family} contrasts (Holm)"


def folded(title: str, blocks: Sequence[Block]) -> list[Block]:
    """Return the blocks folded away under their title; nothing where there are none."""
    return [Details(title, tuple(blocks))] if blocks else []


def _compared(quantity: Quantity, comparison: Comparison | None) -> tuple[str, ...]:
    return (*difference(quantity, comparison), probability(comparison.p_adjusted if comparison else None))


def _caption(study: Study, title: str, same: Mapping[str, str], quantities: Sequence[Quantity]) -> str:
    images = f" on {same['images']} images" if same.get("images", DASH) != DASH else ""
    seeds = {"n": "seeds", "1": "1 seed"}.get(n := same.get("n", "n"), f"{n} seeds")
    texts = [f"{title}{images}: mean ± standard deviation over {seeds}"]
    if any(by_images(quantity, recipe) for quantity in quantities for recipe in study.labels):
        texts.append(f"in brackets {BY_IMAGES}")
    if "precision" not in same:
        texts.append("not all measured in the same precision")
    if study.contrasts:
        texts.append(f"paired differences, {intervals(len(study.contrasts) + study.missing)}")
    return "; ".join(texts)


def _not_compared(study: Study, quantities: Sequence[Quantity]) -> list[Text]:
    """Say which quantities were not compared with the baseline, for any recipe or for some, and why."""
    phrases: dict[str, list[str]] = {"Not compared": [], "Not compared for some recipes": []}
    for quantity in quantities:
        if problem := quantity.problem():
            some = study.contrasts and not all(quantity.problem(*contrast.recipes) for contrast in study.contrasts)
            phrases["Not compared for some recipes" if some else "Not compared"].append(f"{quantity.label} ({problem})")
    return [Text(f"{kind}: {'; '.join(labels)}.") for kind, labels in phrases.items() if labels]
