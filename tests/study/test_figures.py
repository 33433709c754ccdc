"""The table of a study that 0.1.0 made holds the figures, the contrast and the verdicts that 0.1.0 computed."""

import json
from typing import Any

import pytest
from places import FIXTURES

from flatnext.study.claims import answers
from flatnext.study.reading import read_study
from flatnext.study.study import Study

RUNS = FIXTURES / "runs-of-0.1.0"

EXPECTED = json.loads((RUNS / "expected/figures.json").read_text(encoding="utf-8"))

RENAMED = {
    "train loss": ("loss", "train"),
    "gap": ("loss.gap", "train"),
    "eigenvalue": ("hessian.eigenvalue", "train"),
    "trace": ("hessian.trace", "train"),
    "seconds": ("seconds_per_epoch", "train"),
    "corruptions.generated": ("corruptions.mean", "test"),
    "severity.generated": ("corruptions.mean", "test"),
    "clean": ("attack.none", "test"),
}
"""Measure and split of the kinds that 0.1.0 called otherwise."""


@pytest.fixture(scope="module")
def study() -> Study:
    return read_study([RUNS / "study"])


def place(figure: dict[str, Any]) -> tuple[str, str, float | None]:
    """Return measure, split and place of a figure of 0.1.0."""
    kind, at = figure["kind"], figure["at"]
    if kind == "corruption.generated":
        return f"corruption.{figure['name'].replace(' ', '_')}", "test", at
    of_flatness = kind.startswith(("sharpness.", "distance.", "rise."))
    return (*RENAMED.get(kind, (kind, "train" if of_flatness else "test")), at)


@pytest.mark.parametrize("figure", EXPECTED["figures"], ids=lambda figure: figure["name"])
def test_the_table_holds_the_figures_of_0_1_0(study: Study, figure: dict[str, Any]) -> None:
    measure, split, at = place(figure)
    rows = [row for row in study.measurements if (row.measure, row.split, row.at) == (measure, split, at)]
    values = {recipe: {str(r.seed): r.value for r in rows if r.recipe == recipe} for recipe in study.labels}
    for recipe, by_seed in figure["values"].items():
        assert values[recipe] == pytest.approx(by_seed, rel=1e-12)
    assert sorted({row.images for row in rows}) == figure["images"]
    (quantity,) = (q for q in study.quantities if (q.measure.id, q.split, q.at) == (measure, split, at))
    assert {recipe: {str(s): v for s, v in quantity.values(recipe).items()} for recipe in study.labels} == values


def test_the_contrast_is_that_of_0_1_0(study: Study) -> None:
    (contrast,), expected = study.contrasts, EXPECTED["contrast"]
    comparison = contrast.comparison
    assert comparison is not None
    assert contrast.recipes == (expected["group"], expected["baseline"])
    assert list(comparison.seeds) == expected["seeds"]
    assert comparison.differences == pytest.approx(expected["differences"])
    figures = (comparison.t, comparison.p, comparison.p_permutation)
    assert figures == pytest.approx([expected[name] for name in ("t", "p", "p_permutation")])
    assert (comparison.difference.low, comparison.difference.high) == pytest.approx((expected["low"], expected["high"]))


def test_the_verdicts_are_those_of_0_1_0_but_for_two_seeds(study: Study) -> None:
    """0.1.0 gave verdicts from two seeds on; now there are none below three, and two passes are longer than one."""
    verdicts = [{"claim": answer.claim.text, "verdict": answer.verdict} for answer in answers(study)]
    now = {"longer training": "by construction"}
    expected = [claim | {"verdict": now.get(claim["claim"], "n = 2: no statement")} for claim in EXPECTED["claims"]]
    assert {claim["verdict"] for claim in EXPECTED["claims"]} == {"not shown", "no spread: no test"}
    assert verdicts == expected
