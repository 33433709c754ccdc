"""The step, the loop, and what a run leaves on disk."""

from flatnext.training.loop import advance, check_data, make_step, train
from flatnext.training.optimizer import learning_rate, make_optimizer
from flatnext.training.progress import Silent, make_progress
from flatnext.training.run_folder import RunFolder, read_config
from flatnext.training.step import Step, StepStats
from flatnext.training.stop import Stopped

__all__ = [
    "RunFolder",
    "Silent",
    "Step",
    "StepStats",
    "Stopped",
    "advance",
    "check_data",
    "learning_rate",
    "make_optimizer",
    "make_progress",
    "make_step",
    "read_config",
    "train",
]
