"""What a trained model is worth: logits once, then exact metrics."""

from flatnext.evaluation.evaluate import evaluate
from flatnext.evaluation.metrics import Scores, predict, score, surest_mistakes

__all__ = ["Scores", "evaluate", "predict", "score", "surest_mistakes"]
