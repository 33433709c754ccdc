"""What a trained model is worth: logits once, then exact metrics."""

from flatnext.evaluation.calibration import Calibration, calibration
from flatnext.evaluation.evaluate import evaluate
from flatnext.evaluation.metrics import Scores, predict, score, surest_mistakes

__all__ = ["Calibration", "Scores", "calibration", "evaluate", "predict", "score", "surest_mistakes"]
