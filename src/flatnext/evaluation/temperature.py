"""Temperature scaling (Guo et al., arXiv 1706.04599): logits divided by one number, chosen on validation images.

The order of the classes stays, and so does the accuracy; only the probabilities change.
"""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from flatnext.errors import InputError
from flatnext.evaluation.calibration import BINS, calibration, checked
from flatnext.runs.evidence import Calibration, Scaled

TEMPERATURES = 0.01, 100.0  # the range in which `fit_temperature` looks
HALVINGS = 64  # of the logarithm of that range: its ends are then a rounding error apart


def calibration_with_scaling(
    logits: Tensor,
    labels: Tensor,
    validation_logits: Tensor | None = None,
    validation_labels: Tensor | None = None,
    bins: int = BINS,
) -> Calibration:
    """Return the calibration of logits (N x classes) against labels (int64, N), of test images.

    With those of validation images, also the calibration after scaling by the temperature that is best for these; the
    test images choose nothing. `InputError`: shapes that do not fit, a logit that is not finite, or one without the
    other.
    """
    plain = calibration(logits, labels, bins)
    if validation_logits is None and validation_labels is None:
        return plain
    if validation_logits is None or validation_labels is None:
        raise InputError("validation_logits and validation_labels belong together: give both or neither")
    temperature = fit_temperature(validation_logits, validation_labels)
    after = calibration(logits.cpu().double() / temperature, labels, bins)
    scaled = Scaled(
        temperature=temperature,
        validation_count=len(validation_labels),
        nll=after.nll,
        brier=after.brier,
        ece=after.ece,
        adaptive_ece=after.adaptive_ece,
        reliability=after.reliability,
    )
    return replace(plain, scaled=scaled)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature T for which logits / T have the least negative log-likelihood (arXiv 1706.04599).

    It is convex in 1 / T, so the zero of its derivative is found by bisection, in double precision and to rounding.

    T is looked for in `TEMPERATURES`, 0.01 to 100, and an end is returned where the best T is not within: 0.01 if every
    image is classified correctly, since then the likelihood rises for ever as T falls; 100 if the logits are no better
    than chance. An end says that these images do not fix T: give more of them. Where T does not matter (the logits of
    each image are all equal), it is 1.
    """
    logits, labels = checked(logits, labels)
    below_largest = logits - logits.max(dim=1, keepdim=True).values
    of_label = below_largest.gather(1, labels[:, None]).mean()

    def slope(inverse: float) -> float:
        """Return the derivative of the negative log-likelihood by 1 / T, which never falls."""
        expected = ((inverse * below_largest).softmax(dim=1) * below_largest).sum(dim=1).mean()
        return float(expected - of_label)

    low, high = (math.log(1 / temperature) for temperature in reversed(TEMPERATURES))
    rises_from_low, falls_to_high = slope(math.exp(low)) >= 0, slope(math.exp(high)) <= 0
    if rises_from_low or falls_to_high:
        return 1.0 if rises_from_low and falls_to_high else TEMPERATURES[1 if rises_from_low else 0]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) < 0 else (low, middle)
    return math.exp(-(low + high) / 2)
