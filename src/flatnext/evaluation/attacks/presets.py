"""Attacks by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flatnext.errors import InputError
from flatnext.evaluation.attacks.apgd import APGD
from flatnext.evaluation.attacks.gradient import PGD, Noise, fgsm
from flatnext.evaluation.attacks.search import Attack
from flatnext.evaluation.attacks.square import Square


def ensemble(*, steps: int = 100, targets: int = 9, queries: int = 5000) -> tuple[Attack, ...]:
    """Return Auto-PGD on cross-entropy, on targeted DLR, and Square; each works on what the one before has left.

    These are three of the four parts of AutoAttack (arXiv 2003.01690), at its settings; FAB is left out, so a figure
    from here is not an AutoAttack figure. An image that withstands all of it costs 1,010 passes forward and backward
    and 5,002 forward only.
    """
    return APGD(steps=steps), APGD(steps=steps, loss="dlr-targeted", targets=targets), Square(queries=queries)


PRESETS: dict[str, Callable[[], tuple[Attack, ...]]] = {
    "noise": lambda: (Noise(),),
    "fgsm": lambda: (fgsm(),),
    "pgd": lambda: (PGD(),),
    "apgd+square": ensemble,
    "apgd+square-quick": lambda: ensemble(steps=20, targets=3, queries=100),
}
"""Attacks by name; `quick` is for CPUs: 85 passes forward and backward and 102 forward only, at most."""


def attacks_of(name: str) -> Sequence[Attack]:
    """Return the attacks of a name in `PRESETS`. Raises `InputError` for another."""
    if name not in PRESETS:
        raise InputError(f"attack is {name!r}: choose {', '.join(PRESETS)}")
    return PRESETS[name]()
