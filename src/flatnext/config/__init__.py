"""What a run is: one frozen value, checked when it is made, that goes to JSON and back."""

from flatnext.config.config import Config
from flatnext.config.data import Data, most_of
from flatnext.config.longer import as_new_run, depends_on_length, described_change, longer
from flatnext.config.method import METHODS, Amp, Method, Perturbation, Sgd
from flatnext.config.model import ABOUT_MODELS, MODELS, Model, model_name, named_model, with_named_model
from flatnext.config.names import ELSEWHERE, RENAMED, flag_of, remedy
from flatnext.config.naming import differences, folder_name, from_partial, labelled, names_recipe, recipe_name
from flatnext.config.optimizer import Optimizer, Schedule
from flatnext.config.recipes import RECIPES, about, default_recipes, recipe, recipes_for, with_model
from flatnext.config.start import Start

__all__ = [
    "ABOUT_MODELS",
    "ELSEWHERE",
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
    "Start",
    "about",
    "as_new_run",
    "default_recipes",
    "depends_on_length",
    "described_change",
    "differences",
    "flag_of",
    "folder_name",
    "from_partial",
    "labelled",
    "longer",
    "model_name",
    "most_of",
    "named_model",
    "names_recipe",
    "recipe",
    "recipe_name",
    "recipes_for",
    "remedy",
    "with_model",
    "with_named_model",
]
