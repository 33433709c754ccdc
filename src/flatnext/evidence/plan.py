"""What to gather, and on how many images."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from flatnext.errors import InputError

PARTS = ("calibration", "errors", "flatness", "corruptions", "attacks")
"""In the order in which they are gathered: the quick ones first."""

AUTOATTACK = ("quick", "standard", "none")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings of all parts. Dear measures are given a share of `images`, so that all take about the same time.

    Args:
        images: test images of calibration and errors; at most all are taken. Corruptions and sharpness (the latter on
            training images) are measured on half as many, loss curves on a quarter, attacks and the loss surface on a
            16th, the Hessian and the attacks' sanity checks on a 32nd.
        seed: of the choice of images and of all random draws. The images are the same for all runs on the same data.
        linf: budgets of FGSM and PGD in the maximum norm, in 1/255. AutoAttack's quick form works on the second of
            them, or on the only one.
        l2: budgets in the Euclidean norm, in 1/255.
        autoattack: `quick`, `standard` (hours on a CPU), or `none`.
    """

    images: int = 1000
    seed: int = 0
    linf: tuple[float, ...] = (1.0, 2.0, 8.0)
    l2: tuple[float, ...] = (32.0, 128.0)
    autoattack: str = "quick"

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


def chosen(parts: Sequence[str]) -> tuple[str, ...]:
    """Return the named parts in their order; `all` names each. `InputError`: there is no such part."""
    for part in parts:
        if part not in (*PARTS, "all"):
            raise InputError(f"part is {part!r}: choose all, {', '.join(PARTS)}")
    return tuple(part for part in PARTS if part in parts or "all" in parts)


FLAGS = ("images", "seed", "linf", "l2", "autoattack", "cifar10_c", "output", "overwrite")
"""The flags that mean something only where parts are gathered."""


def add_evidence_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a plan, of the parts, and of where the evidence goes."""
    group = parser.add_argument_group(
        "evidence", "Measured in parts, kept in RUN/evidence.json, and shown in the report: docs/evidence.md."
    )
    every = Plan()
    group.add_argument("--parts", nargs="+", metavar="NAME", help=f"parts to gather: all, {', '.join(PARTS)}")
    group.add_argument("--images", type=int, metavar="N", help=f"images to measure on (default {every.images:,})")
    group.add_argument(
        "--seed", type=int, metavar="N", help=f"of the choice of images and draws (default {every.seed})"
    )
    for name, norm in (("linf", "maximum norm"), ("l2", "Euclidean norm")):
        default = " ".join(f"{budget:g}" for budget in getattr(every, name))
        text = f"attacks: budgets in the {norm}, in 1/255 (default {default})"
        group.add_argument(f"--{name}", nargs="*", type=float, metavar="B", help=text)
    group.add_argument("--autoattack", choices=AUTOATTACK, help=f"its form (default {every.autoattack})")
    group.add_argument("--cifar10-c", type=Path, metavar="DIR", help="corruptions: also the published images in DIR")
    group.add_argument("--output", type=Path, metavar="FILE", help="where the evidence of one model goes")
    group.add_argument("--overwrite", action="store_true", default=None, help="gather anew what is there")


def evidence_from_flags(flags: Mapping[str, Any]) -> tuple[Plan, tuple[str, ...]]:
    """Return the plan and the parts that were asked for. `InputError`: a value that cannot be."""
    given: dict[str, Any] = {field.name: flags[field.name] for field in fields(Plan) if flags[field.name] is not None}
    lists: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return Plan(**lists), chosen(flags["parts"])


def given_evidence_flags(flags: Mapping[str, Any]) -> list[str]:
    """Return the given flags that are for the evidence alone."""
    return [f"--{name.replace('_', '-')}" for name in FLAGS if flags[name] is not None]
