"""The registry of measures: for each id its label, unit, digits, and which direction is better."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

Direction = Literal["higher", "lower"]

NORMS = {"linf": "L∞", "l2": "L2"}

SPLITS = ("test", "validation", "train")
"""The splits of a run's own data; any other name in the column `split` is that of a further test set."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What a number is. `better` is None where neither direction is.

    `label` names it, with `{split}` in it where the split belongs to the name; `place` is what the label goes on with
    where the number was taken at a radius, a severity or a budget. `scale` turns values into `unit`: 100 makes
    fractions per cent. With `digits` None a table shows three digits of the largest value. Of an attack, `name` and
    `norm` say which. A `proportion` is a share of images, which has a binomial interval.
    """

    id: str
    label: str
    place: str = ""
    better: Direction | None = "lower"
    unit: str = ""
    scale: float = 1.0
    digits: int | None = None
    name: str = ""
    norm: str = ""
    proportion: bool = False

    @property
    def bounds(self) -> tuple[float, float]:
        """Between what the values lie: of accuracies 0 and 1, of what they lost -1 and 1."""
        if self.unit != "%":
            return -math.inf, math.inf
        return (-1.0 if self.better == "lower" else 0.0), 1.0

    def text(self, split: str, at: float | None = None) -> str:
        """Return the label of the measure on a split or test set, at a radius, severity or budget."""
        text = self.label.format(split=split) + ("" if at is None else self.place.format(at))
        return text if split in SPLITS or "{split}" in self.label else f"{text} ({split})"


def measure(identifier: str) -> Measure:
    """Return the measure of an id; one of a family (`corruption.snow`) is made from its entry."""
    if identifier in MEASURES:
        return MEASURES[identifier]
    family, _, name = identifier.partition(".")
    if family in ("attack", "lost"):
        name, _, norm = name.rpartition(".")
        text = f"{name}, {NORMS.get(norm, norm)}"
    else:
        norm, text = "", name.replace("_", " ") if family == "corruption" else name
    entry = FAMILIES[family]
    label = entry.label + text.replace("{", "{{").replace("}", "}}")
    return replace(entry, id=identifier, label=label, name=name, norm=norm)


def _percent(identifier: str, label: str, place: str = "", better: Direction = "higher") -> Measure:
    return Measure(id=identifier, label=label, place=place, better=better, unit="%", scale=100.0, digits=2)


def _share(identifier: str, label: str, place: str = "") -> Measure:
    """Return an accuracy that is one share of images, and no mean of several."""
    return replace(_percent(identifier, label, place), proportion=True)


RADIUS, SEVERITY, BUDGET = ", radius {:g}", ", severity {:g}", " {:g}/255"

MEASURES = {
    measure.id: measure
    for measure in (
        _share("accuracy", "{split} accuracy"),
        Measure(id="loss", label="{split} loss", digits=4),
        _share("accuracy.best", "{split} accuracy, best epoch"),
        Measure(id="loss.best", label="{split} loss, best epoch", digits=4),
        _percent("balanced_accuracy", "{split} accuracy, balanced over classes"),
        _percent("accuracy.augmented", "accuracy on augmented training images"),
        Measure(id="loss.augmented", label="loss on augmented training images", digits=4),
        Measure(id="epoch", label="last epoch", better=None, digits=0),
        Measure(id="epoch.best", label="best epoch", better=None, digits=0),
        Measure(id="seconds_per_epoch", label="seconds an epoch", unit="s", digits=2),
        Measure(id="images_per_second", label="images a second", better="higher", digits=1),
        Measure(id="train_seconds", label="training time", unit="s", digits=1),
        Measure(id="loss.gap", label="test loss − training loss", digits=4),
        *(
            Measure(id=f"sharpness.{name.lower()}", label=f"{name} sharpness", place=RADIUS)
            for name in ("AMP", "SAM", "ASAM")
        ),
        # AMP's step is not normed: near a minimum it is much shorter than the radius, which only bounds it.
        Measure(id="distance.amp", label="length of AMP's step", place=RADIUS, better=None),
        Measure(id="rise.random", label="rise along random directions", place=RADIUS),
        Measure(id="rise.gradient", label="rise along the gradient", place=RADIUS),
        Measure(id="hessian.eigenvalue", label="largest Hessian eigenvalue"),
        Measure(id="hessian.trace", label="trace of the Hessian"),
        Measure(id="temperature", label="temperature", better=None, digits=3),
        *(
            Measure(id=f"{identifier}{suffix}", label=f"{label}{when}", digits=4)
            for suffix, when in (("", ""), (".scaled", " after scaling"))
            for identifier, label in (
                ("ece", "ECE"),
                ("adaptive_ece", "adaptive ECE"),
                ("nll", "NLL"),
                ("brier", "Brier score"),
            )
        ),
        _percent("corruptions.mean", "mean accuracy under corruption", SEVERITY),
        _percent("corruptions.lost", "accuracy lost to corruption", better="lower"),
        _share("attack.none", "no attack"),
    )
}

FAMILIES = {
    "recall": _share("recall", ""),
    "f1": _percent("f1", ""),
    "corruption": _percent("corruption", "", SEVERITY),
    "attack": _share("attack", "", BUDGET),
    "lost": _percent("lost", "accuracy lost to ", BUDGET, "lower"),
}
"""Measures that there is one of for each class, corruption or attack: `recall.cat`, `f1.cat`, `corruption.snow`,
`attack.pgd.l2`, `lost.pgd.l2`."""
