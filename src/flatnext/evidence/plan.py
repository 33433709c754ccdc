"""What to measure, and on how many images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from flatnext.config.setting import Settings, require, setting
from flatnext.errors import InputError
from flatnext.runs.evidence import MEASUREMENTS


@dataclass(frozen=True, kw_only=True)
class EvidencePlan(Settings):
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

    images: int = setting(1000, "test images to measure on; slow measurements take a share of them", at_least=1)
    seed: int = setting(0, "seed of the choice of images and of all random draws", at_least=0)
    linf: tuple[float, ...] = setting((1.0, 2.0, 8.0), "attacks: budgets in the maximum norm, in 1/255")
    l2: tuple[float, ...] = setting((32.0, 128.0), "attacks: budgets in the Euclidean norm, in 1/255")
    autoattack: Literal["none", "standard"] = setting(
        "none", "attacks: also run AutoAttack; standard takes hours on a CPU"
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        require(bool(self.linf or self.l2), "linf and l2 are both empty: give at least one budget")
        for norm, budgets in (("linf", self.linf), ("l2", self.l2)):
            require(
                len(set(budgets)) == len(budgets) and all(0 < budget < 1e6 for budget in budgets),
                f"{norm} is {list(budgets)}: give positive budgets in 1/255, each once",
            )

    def share(self, part: int) -> int:
        """Return one `part`-th of the images, and at least one."""
        return max(1, self.images // part)


def in_order(names: Sequence[str]) -> tuple[str, ...]:
    """Return the named measurements in their order; `all` stands for each. `InputError`: there is no such one."""
    for name in names:
        if name not in (*MEASUREMENTS, "all"):
            raise InputError(f"measurement is {name!r}: choose all, {', '.join(MEASUREMENTS)}")
    return tuple(name for name in MEASUREMENTS if name in names or "all" in names)
