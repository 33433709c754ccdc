"""What to measure, and on how many images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flatnext.errors import InputError

NAMES = ("calibration", "errors", "flatness", "corruptions", "attacks")
"""The measurements in the order in which they are made: the quick ones first."""

AUTOATTACK = ("none", "standard")


@dataclass(frozen=True, kw_only=True)
class EvidencePlan:
    """The settings of all measurements. Expensive ones use a share of `images`, so that all take about as long.

    Args:
        images: test images of calibration and errors; at most all are taken. Corruptions and sharpness (the latter on
            training images) are measured on half as many, loss curves on a quarter, attacks and the loss surface on a
            16th, the Hessian and the attacks' sanity checks on a 32nd.
        seed: of the choice of images and of all random draws. The images are the same for all runs on the same data.
        linf: budgets of FGSM and PGD in the maximum norm, in 1/255. AutoAttack works on the second of them, or on the
            only one.
        l2: budgets in the Euclidean norm, in 1/255.
        autoattack: `none`, or `standard` (hours on a CPU).
    """

    images: int = 1000
    seed: int = 0
    linf: tuple[float, ...] = (1.0, 2.0, 8.0)
    l2: tuple[float, ...] = (32.0, 128.0)
    autoattack: str = "none"

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.images < 1:
            raise InputError(f"images is {self.images}: give at least 1")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}: give 0 or more")
        if self.autoattack not in AUTOATTACK:
            raise InputError(f"autoattack is {self.autoattack!r}: choose {', '.join(AUTOATTACK)}")
        if not (self.linf or self.l2):
            raise InputError("linf and l2 are both empty: give at least one budget")
        for norm, budgets in (("linf", self.linf), ("l2", self.l2)):
            if len(set(budgets)) < len(budgets) or not all(0 < budget < 1e6 for budget in budgets):
                raise InputError(f"{norm} is {list(budgets)}: give positive budgets in 1/255, each once")

    def share(self, part: int) -> int:
        """Return one `part`-th of the images, and at least one."""
        return max(1, self.images // part)


def in_order(names: Sequence[str]) -> tuple[str, ...]:
    """Return the named measurements in their order; `all` stands for each. `InputError`: there is no such one."""
    for name in names:
        if name not in (*NAMES, "all"):
            raise InputError(f"measurement is {name!r}: choose all, {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in names or "all" in names)
