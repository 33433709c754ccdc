"""What a trained model is worth: logits once, then exact metrics."""

from flatnext.evaluation.calibration import Calibration, calibration
from flatnext.evaluation.evaluate import evaluate
from flatnext.evaluation.metrics import most_confident_errors, predict, score
from flatnext.evaluation.predictor import Predictor, load_predictor
from flatnext.evaluation.saliency import explained_mistakes, grad_cam, overlay
from flatnext.evaluation.temperature import CalibrationReport, calibration_report, fit_temperature
from flatnext.runs.scores import Scores

__all__ = [
    "Calibration",
    "CalibrationReport",
    "Predictor",
    "Scores",
    "calibration",
    "calibration_report",
    "evaluate",
    "explained_mistakes",
    "fit_temperature",
    "grad_cam",
    "load_predictor",
    "most_confident_errors",
    "overlay",
    "predict",
    "score",
]
