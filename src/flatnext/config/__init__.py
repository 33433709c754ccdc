"""What a run is: one frozen value, checked when it is made, that goes to JSON and back."""

from flatnext.config.config import RENAMED, Config
from flatnext.config.data import Data
from flatnext.config.method import METHODS, Amp, Method, Perturbation, Sgd
from flatnext.config.model import MODELS, Model, named_model
from flatnext.config.optimizer import Optimizer, Schedule
from flatnext.config.recipes import RECIPES, recipe

__all__ = [
    "METHODS",
    "MODELS",
    "RECIPES",
    "RENAMED",
    "Amp",
    "Config",
    "Data",
    "Method",
    "Model",
    "Optimizer",
    "Perturbation",
    "Schedule",
    "Sgd",
    "named_model",
    "recipe",
]
