"""Adversarial attacks on the images: how much accuracy remains when each pixel may change a little.

Budgets are in units of 1/255 on the image before normalisation, for both norms (an L2 budget of 127.5 is 0.5 on images
in [0, 1]). Adversarial images lie in [0, 1] and are not rounded to 8 bits.
"""

from flatnext.evaluation.attacks.robustness import robustness
from flatnext.evaluation.attacks.sanity import sanity_checks

__all__ = ["robustness", "sanity_checks"]
