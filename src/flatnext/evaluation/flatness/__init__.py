"""How flat the loss is around a trained model: along directions, on a plane, in a ball, and by its Hessian.

All measures take an `Objective`, the mean loss of a copy of the model on given images; the model itself is never
changed. The cost of a measure is given in passes over these images.
"""

from flatnext.evaluation.flatness.hessian import hessian_eigenvalues, hessian_trace
from flatnext.evaluation.flatness.landscape import gradient_curve, loss_curve, loss_surface
from flatnext.evaluation.flatness.objective import Objective
from flatnext.evaluation.flatness.sharpness import (
    amp_sharpness,
    asam_sharpness,
    sam_sharpness,
)

__all__ = [
    "Objective",
    "amp_sharpness",
    "asam_sharpness",
    "gradient_curve",
    "hessian_eigenvalues",
    "hessian_trace",
    "loss_curve",
    "loss_surface",
    "sam_sharpness",
]
