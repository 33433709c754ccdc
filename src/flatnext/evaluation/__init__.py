"""What a trained model is worth: logits once, then exact metrics."""

from flatnext.evaluation.calibration import calibration
from flatnext.evaluation.evaluate import evaluate
from flatnext.evaluation.metrics import is_correct, most_confident_errors, score
from flatnext.evaluation.predictor import Predictor, load_predictor
from flatnext.evaluation.saliency import explained_mistakes, grad_cam, overlay
from flatnext.evaluation.temperature import calibration_with_scaling, fit_temperature
from flatnext.evaluation.trained_model import load_trained_model

__all__ = [
    "Predictor",
    "calibration",
    "calibration_with_scaling",
    "evaluate",
    "explained_mistakes",
    "fit_temperature",
    "grad_cam",
    "is_correct",
    "load_predictor",
    "load_trained_model",
    "most_confident_errors",
    "overlay",
    "score",
]
