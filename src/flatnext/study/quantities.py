"""Quantities: what was measured in the same way on the runs of several recipes, summed up and compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flatnext.config.setting import show
from flatnext.study.measurements import Measurement
from flatnext.study.measures import Measure, measure
from flatnext.study.statistics import Comparison, Estimate, compare_paired, estimate


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """The measurements of one measure on one split at one place, by recipe; every recipe of the study is a key.

    `sequential`: the number of seeds follows from what they showed.
    """

    measure: Measure
    split: str
    at: float | None
    rows: Mapping[str, tuple[Measurement, ...]]
    sequential: bool = False

    @property
    def label(self) -> str:
        """The name that people read."""
        return self.measure.text(self.split, self.at)

    def images(self, *recipes: str) -> list[int]:
        """Return on how many images these recipes (none named: all) were measured, each number once."""
        return sorted({row.images for row in self._of(recipes) if row.images is not None})

    @property
    def precisions(self) -> list[str]:
        """The precisions that it was measured in, as far as they were recorded, each once."""
        return sorted({str(row.conditions["precision"]) for row in self._of(()) if "precision" in row.conditions})

    def differing(self, *recipes: str) -> str:
        """Return the settings in which the measurements of these recipes (none named: all) differ; empty if in none."""
        return _differing([{**row.conditions, "images": row.images} for row in self._of(recipes)])

    def problem(self, *recipes: str) -> str:
        """Return why these recipes (none named: all) are not compared, or not summed up; empty if they are."""
        if differing := self.differing(*recipes):
            return f"measured with different settings: {differing}"
        runs = [f"{row.recipe}, seed {row.seed}" for row in self._of(recipes) if row.value is None]
        return f"not finite in {'; '.join(runs)}" if runs else ""

    def values(self, recipe: str) -> dict[int, float]:
        """Return the values of a recipe by seed; none where its runs cannot be summed up."""
        if self.problem(recipe):
            return {}
        return {row.seed: row.value for row in self.rows[recipe] if row.value is not None}

    def estimate(self, recipe: str) -> Estimate | None:
        """Return mean and spread over the seeds of a recipe, None where there are no values.

        The interval ends where the measure does: no accuracy is above 100 %.
        """
        values = self.values(recipe)
        if not values:
            return None
        return estimate(values.values(), sequential=self.sequential).within(*self.measure.bounds)

    def compare(self, recipe: str, baseline: str) -> Comparison | None:
        """Return the recipe minus the baseline, not corrected; None without a seed in common or with a problem."""
        values, others = self.values(recipe), self.values(baseline)
        if self.problem(recipe, baseline) or not values.keys() & others.keys():
            return None
        return compare_paired(values, others, sequential=self.sequential)

    def _of(self, recipes: tuple[str, ...]) -> Iterator[Measurement]:
        return (row for recipe in recipes or self.rows for row in self.rows[recipe])


def quantities(
    table: Iterable[Measurement], recipes: Iterable[str], *, sequential: bool = False
) -> tuple[Quantity, ...]:
    """Return what the table holds, in the order in which it first comes."""
    recipes = tuple(recipes)
    rows: dict[tuple[str, str, float | None], dict[str, list[Measurement]]] = {}
    for row in table:
        by_recipe = rows.setdefault((row.measure, row.split, row.at), {recipe: [] for recipe in recipes})
        by_recipe[row.recipe].append(row)
    return tuple(
        Quantity(
            measure=measure(identifier),
            split=split,
            at=at,
            rows={r: tuple(items) for r, items in by_recipe.items()},
            sequential=sequential,
        )
        for (identifier, split, at), by_recipe in rows.items()
    )


def _differing(conditions: Iterable[Mapping[str, Any]]) -> str:
    """Return the conditions that are not the same in all runs, with what they are; empty if all are."""
    conditions = list(conditions)
    names = dict.fromkeys(name for by_name in conditions for name in by_name)
    texts = {name: dict.fromkeys(show(by_name.get(name), ", ", exact=True) for by_name in conditions) for name in names}
    return "; ".join(f"{name} {' or '.join(values)}" for name, values in texts.items() if len(values) > 1)
