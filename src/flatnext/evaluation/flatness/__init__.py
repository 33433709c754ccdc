"""How flat the loss is around a trained model: along directions, on a plane, in a ball, and by its Hessian.

All measures take a `MeanLoss`, the mean loss of a copy of the model on a given set of images; the model itself is never
touched. What a measure costs is said in passes over these images.
"""

from flatnext.evaluation.flatness.hessian import Eigenvalues, Trace, hessian_eigenvalues, hessian_trace
from flatnext.evaluation.flatness.landscape import Curve, Surface, gradient_curve, loss_curve, loss_surface
from flatnext.evaluation.flatness.mean_loss import MeanLoss
from flatnext.evaluation.flatness.sharpness import (
    Sharpness,
    amp_sharpness,
    asam_sharpness,
    ascent_sharpness,
    sam_sharpness,
)

__all__ = [
    "Curve",
    "Eigenvalues",
    "MeanLoss",
    "Sharpness",
    "Surface",
    "Trace",
    "amp_sharpness",
    "asam_sharpness",
    "ascent_sharpness",
    "gradient_curve",
    "hessian_eigenvalues",
    "hessian_trace",
    "loss_curve",
    "loss_surface",
    "sam_sharpness",
]
