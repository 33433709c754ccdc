"""What a run is: one frozen value, checked when it is made, that goes to JSON and back."""

from flatnext.config.method import METHODS, Adversarial, Amp, Asam, Method, MomentumAmp, Perturbation, Rmp, Sam, Sgd
from flatnext.config.run import Config, Data, Model, Optimizer, Schedule

__all__ = [
    "METHODS",
    "Adversarial",
    "Amp",
    "Asam",
    "Config",
    "Data",
    "Method",
    "Model",
    "MomentumAmp",
    "Optimizer",
    "Perturbation",
    "Rmp",
    "Sam",
    "Schedule",
    "Sgd",
]
