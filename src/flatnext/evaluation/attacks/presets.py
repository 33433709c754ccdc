"""Attacks by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flatnext.errors import InputError
from flatnext.evaluation.attacks.apgd import APGD
from flatnext.evaluation.attacks.fab import FAB
from flatnext.evaluation.attacks.gradient import PGD, Noise, fgsm
from flatnext.evaluation.attacks.search import Attack
from flatnext.evaluation.attacks.square import Square


def autoattack(*, steps: int = 100, targets: int = 9, queries: int = 5000) -> tuple[Attack, ...]:
    """Return AutoAttack (arXiv 2003.01690): Auto-PGD on cross-entropy and on targeted DLR, targeted FAB, and Square.

    With the defaults these are the attacks, the order and the settings of the authors' version `standard`; with others
    a figure is no AutoAttack figure. Each attack gets the images that those before have not fooled. What differs from
    the authors' code is in the docstrings of the attacks: each image has its own random numbers, and is not attacked
    any further once it is misclassified, so that its outcome does not depend on the batch. Their warnings of random or
    masked models are not here: see `sanity_checks`. An image that withstands all costs 7,813 passes forward and 1,910
    backward, of which Square's are 5,001. It needs 4 classes.
    """
    return (
        APGD(steps=steps),
        APGD(steps=steps, loss="dlr-targeted", targets=targets),
        FAB(steps=steps, targets=targets),
        Square(queries=queries, rescale=False),
    )


PRESETS: dict[str, Callable[[], tuple[Attack, ...]]] = {
    "noise": lambda: (Noise(),),
    "fgsm": lambda: (fgsm(),),
    "pgd": lambda: (PGD(),),
    "autoattack": autoattack,
}
"""Attacks by name."""


def attacks_of(name: str) -> Sequence[Attack]:
    """Return the attacks of a name in `PRESETS`. Raises `InputError` for another."""
    if name not in PRESETS:
        raise InputError(f"attack is {name!r}: choose {', '.join(PRESETS)}")
    return PRESETS[name]()
