"""The step, the loop, and what a run leaves on disk."""

from flatnext.training.loop import train
from flatnext.training.optimizer import learning_rate, make_optimizer
from flatnext.training.progress import Silent, make_progress
from flatnext.training.run_folder import RunFolder
from flatnext.training.step import Step, StepStats
from flatnext.training.stop import Stopped

__all__ = [
    "RunFolder",
    "Silent",
    "Step",
    "StepStats",
    "Stopped",
    "learning_rate",
    "make_optimizer",
    "make_progress",
    "train",
]
