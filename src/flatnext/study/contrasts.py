"""Which groups of a study are compared with which: those that were planned, else each method with plain SGD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flatnext.config import Config
from flatnext.study.groups import Group
from flatnext.study.statistics import Comparison, sentence

Pair = tuple[Group, Group]


@dataclass(frozen=True)
class Contrast:
    """A group against its baseline. `comparison` (of the study's headline) is None without a seed in common.

    `balanced`: it is of the balanced test accuracy.
    """

    group: Group
    baseline: Group
    comparison: Comparison | None
    balanced: bool = False

    @property
    def recipes(self) -> tuple[str, str]:
        """The labels of the two, the baseline last."""
        return self.group.label, self.baseline.label

    @property
    def label(self) -> str:
        """Return `amp − sgd`."""
        return " − ".join(self.recipes)

    @property
    def sentence(self) -> str:
        """What the comparison shows, in words."""
        if self.comparison is None:
            names = " and ".join(self.recipes)
            return f"{names} have no seed in common: run both with the same seeds to compare them."
        unit = "points of balanced accuracy" if self.balanced else "points"
        return sentence(self.comparison, *self.recipes, unit)


def baseline_of(groups: Sequence[Group]) -> Group | None:
    """Return the first group that trains with plain SGD, else the first; None where there is none."""
    return next(iter((*filter(is_plain, groups), *groups)), None)


def planned_pairs(groups: Sequence[Group], planned: Sequence[tuple[str, str]]) -> list[Pair]:
    """Return the pairs of recipes that were planned, in the plan's order, as far as both have finished runs."""
    pairs = []
    for names in planned:
        first, second = ([g for g in groups if name in (g.label, g.config.recipe)] for name in names)
        pairs += [(group, other) for group in first for other in second if group is not other]
    return pairs


def default_pairs(groups: Sequence[Group]) -> list[Pair]:
    """Return each group with plain SGD of the same epochs, and each method with plain SGD of the same passes too.

    Plain SGD of the same epochs is the group that differs in the method alone, without one the study's baseline. Plain
    SGD that is there for its passes is no group of its own to compare.
    """
    baseline, controls = baseline_of(groups), equal_compute(groups)
    pairs: list[Pair] = []
    for group in groups:
        if group is baseline or baseline is None or group in controls.values():
            continue
        plain = _of_equal_epochs(group, groups) or baseline
        pairs.append((group, plain))
        if controls.get(group.label, plain) is not plain:
            pairs.append((group, controls[group.label]))
    return pairs


def equal_compute(groups: Sequence[Group]) -> dict[str, Group]:
    """Return, by the label of a group with a method, plain SGD that was trained longer: with as many passes."""
    controls = {group.label: _of_equal_compute(group, groups) for group in groups}
    return {label: control for label, control in controls.items() if control is not None}


def is_plain(group: Group) -> bool:
    """Return whether a group trains with plain SGD."""
    return group.config.method.name == "sgd"


def same_but_for_method(group: Group, other: Group) -> bool:
    """Return whether the configs differ in nothing but the method and the recipe's name."""
    return replace(group.config, recipe=other.config.recipe, method=other.config.method) == other.config


def _of_equal_epochs(group: Group, groups: Sequence[Group]) -> Group | None:
    """Return plain SGD with all other settings of a group with a method."""
    if is_plain(group):
        return None
    return next((other for other in groups if is_plain(other) and same_but_for_method(group, other)), None)


def _of_equal_compute(group: Group, groups: Sequence[Group]) -> Group | None:
    """Return plain SGD that was trained longer: with the passes, the data and the model of a group with a method."""

    def shared(config: Config) -> tuple[object, ...]:
        return replace(config.data, early_sizes=None), config.model, config.batch_size

    if is_plain(group) or group.config.method.passes == 1:
        return None
    return next(
        (
            other
            for other in groups
            if is_plain(other)
            and other.config.epochs > group.config.epochs
            and 0 <= other.config.passes - group.config.passes < 1
            and shared(other.config) == shared(group.config)
        ),
        None,
    )
