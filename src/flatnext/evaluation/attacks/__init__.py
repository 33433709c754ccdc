"""Adversarial attacks on the images: how much accuracy remains when each pixel may change a little.

Budgets are in units of 1/255 on the image before normalisation, for both norms (an L2 budget of 127.5 is 0.5 on images
in [0, 1]). Adversarial images lie in [0, 1] and are not rounded to 8 bits. `PRESETS` has the attacks by name;
`autoattack` is the standard version of arXiv 2003.01690.
"""

from flatnext.evaluation.attacks.apgd import APGD
from flatnext.evaluation.attacks.attacked_model import AttackedModel, frozen
from flatnext.evaluation.attacks.ball import Ball
from flatnext.evaluation.attacks.fab import FAB
from flatnext.evaluation.attacks.gradient import PGD, Noise, fgsm
from flatnext.evaluation.attacks.presets import PRESETS, attacks_of, autoattack
from flatnext.evaluation.attacks.robustness import Robustness, robustness
from flatnext.evaluation.attacks.sanity import sanity_checks
from flatnext.evaluation.attacks.search import Attack, Draws, Outcome
from flatnext.evaluation.attacks.square import Square

__all__ = [
    "APGD",
    "FAB",
    "PGD",
    "PRESETS",
    "Attack",
    "AttackedModel",
    "Ball",
    "Draws",
    "Noise",
    "Outcome",
    "Robustness",
    "Square",
    "attacks_of",
    "autoattack",
    "fgsm",
    "frozen",
    "robustness",
    "sanity_checks",
]
