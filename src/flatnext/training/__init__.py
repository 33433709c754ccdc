"""Training: the step, the trainer, and the state of a run."""

from flatnext.training.inputs import load_data
from flatnext.training.loop import train, train_epochs
from flatnext.training.optimizer import learning_rate, make_optimizer
from flatnext.training.run_state import RunState
from flatnext.training.step import Step, StepStats
from flatnext.training.stop import Stopped
from flatnext.training.trainer import make_step

__all__ = [
    "RunState",
    "Step",
    "StepStats",
    "Stopped",
    "learning_rate",
    "load_data",
    "make_optimizer",
    "make_step",
    "train",
    "train_epochs",
]
