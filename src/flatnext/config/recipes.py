"""Named configs. A recipe is a function whose docstring says where its settings come from.

`flatnext train --recipe NAME` runs one, and `flatnext study --recipes NAME NAME` compares several. Every method has a
recipe of its name, which is `sgd` with that method. Accuracy and time are in `docs/results.md`: a recipe that is not
there has not been run at full length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from flatnext.config.config import Config
from flatnext.config.data import Data
from flatnext.config.method import METHODS, Amp, Ball, Method
from flatnext.config.model import MODELS, named_model
from flatnext.config.optimizer import Optimizer, Schedule
from flatnext.config.start import Start
from flatnext.errors import InputError, alike, choose


def report_sgd() -> Config:
    """SGD as in the code of the baseline paper: rate 0.001, batch 64, the first 100 epochs of a cosine over 200.

    Trains on all 50,000 images and keeps the last epoch; the baseline paper chose its epoch on the test set.
    """
    return Config(
        recipe="report-sgd",
        data=Data(validation=0),
        optimizer=Optimizer(learning_rate=0.001, nesterov=False, weight_decay=5e-4, decay_all=True),
        schedule=Schedule(t_max=200, per_epoch=True),
        epochs=100,
        batch_size=64,
        precision="fp32",
    )


def report_text_sgd() -> Config:
    """SGD as in the text of the baseline paper, which names no momentum and no schedule: rate 0.001, decay 1e-4."""
    return replace(
        report_sgd(),
        recipe="report-text-sgd",
        optimizer=Optimizer(learning_rate=0.001, momentum=0.0, nesterov=False, weight_decay=1e-4, decay_all=True),
        schedule=Schedule(schedule="constant"),
    )


def report_amp() -> Config:
    """AMP as in the code of the baseline paper: rate 0.1, epsilon 0.5, inner rate 1, no weight decay, batch 64."""
    return replace(
        report_sgd(),
        recipe="report-amp",
        method=Amp(epsilon=0.5, inner_lr=1.0, inner_iter=1, ball="tensor"),
        optimizer=Optimizer(learning_rate=0.1, nesterov=False, weight_decay=0.0),
    )


def paper_amp() -> Config:
    """AMP as its authors ran it (arXiv 2010.04925 and their code): 200 epochs, batch 50, gradients clipped at 50."""
    return Config(
        recipe="paper-amp",
        data=Data(validation=0),
        method=Amp(epsilon=0.5, inner_lr=1.0, inner_iter=1, ball="tensor"),
        optimizer=Optimizer(learning_rate=0.1, weight_decay=1e-4, decay_all=True, clip_norm=50.0),
        schedule=Schedule(schedule="steps", milestones=(100, 150), gamma=0.1),
        epochs=200,
        batch_size=50,
        precision="fp32",
    )


def sgd() -> Config:
    """Nesterov SGD, cosine from 0.1 to zero over 100 epochs, no weight decay on batch norm and biases, cutout.

    Cutout of 16 pixels adds about a point for a model of this size: from 95.09 to 96.29 % for a pre-activation ResNet
    of 4.3 million parameters in 200 epochs (hysts/pytorch_image_classification). Not yet run at full length here.
    """
    return Config(recipe="sgd", data=Data(cutout=16), schedule=Schedule(warmup_epochs=1.0))


def with_method(kind: type[Method]) -> Config:
    """Return the recipe `sgd` with a method at its default settings, and nothing else changed.

    AMP and its variants have the radius that AMP's authors use with cutout: epsilon 0.3 and inner rate 0.5. Only for
    AMP itself is that the authors' choice; for the others it has not been tuned.
    """
    method = kind()
    if isinstance(method, Ball):
        method = replace(method, epsilon=0.3, inner_lr=0.5)
    return replace(sgd(), recipe=kind.name, method=method)


def cpu() -> Config:
    """For a machine without a GPU: SGD with a triangular rate up to 0.4, and smaller images in most epochs.

    Batch 128, no weight decay on batch norm and biases, label smoothing, alternating flips. Trains on all 50,000 images
    and keeps the last epoch. There is no test curve, which would take minutes an epoch on two cores.
    About three hours on two cores with bf16; 93.00 % on the CIFAR-10 test set (n = 1).
    """
    return Config(
        recipe="cpu",
        data=Data(validation=0, flip="alternating", early_sizes=(16,) * 12 + (24,) * 7),
        optimizer=Optimizer(learning_rate=0.4),
        schedule=Schedule(schedule="linear", warmup_epochs=5.0),
        epochs=24,
        label_smoothing=0.1,
        test_curve=False,
    )


def finetune() -> Config:
    """Images of your own, from the weights that ship: SGD from rate 0.01, 20 epochs, batch 16.

    For 50 to 5,000 images. All layers are trained. Rate and batch were chosen on validation images of the digits, with
    50 and 200 to train on (docs/finetuning.md).
    """
    return Config(
        recipe="finetune",
        data=Data(dataset="folder"),
        start=Start(weights="resnext29-cifar10-cpu"),
        optimizer=Optimizer(learning_rate=0.01),
        schedule=Schedule(warmup_epochs=1.0),
        epochs=20,
        batch_size=16,
    )


def best() -> Config:
    """A first draft for the highest accuracy, on a GPU. It has not been run.

    200 epochs with TrivialAugment, cutout of 8 pixels, label smoothing, a moving average of the weights, and AMP with
    its authors' settings for strong augmentation (AutoAugment): epsilon 0.1, inner rate 0.1.
    """
    return Config(
        recipe="best",
        data=Data(augment="trivial", cutout=8),
        method=Amp(epsilon=0.1, inner_lr=0.1),
        schedule=Schedule(warmup_epochs=1.0),
        epochs=200,
        label_smoothing=0.1,
        ema=0.999,
    )


def quick() -> Config:
    """Plain SGD on scikit-learn's handwritten digits (8x8 pixels, no download), with the small network resnext11.

    328 steps, half a minute on a busy core. The rate was chosen on the validation split (docs/log.md).
    """
    return Config(
        recipe="quick",
        data=Data(dataset="digits", crop_padding=1, flip="none"),
        model=named_model("resnext11"),
        optimizer=Optimizer(learning_rate=0.05),
        schedule=Schedule(warmup_epochs=1.0),
        epochs=8,
        batch_size=32,
    )


def quick_amp() -> Config:
    """The recipe `quick` with AMP, at a radius chosen on the validation split (docs/log.md).

    The authors' 0.5 is for 200 epochs on CIFAR-10 and does not train in so short a run.
    """
    return replace(quick(), recipe="quick-amp", method=Amp(epsilon=0.05))


RECIPES: dict[str, Callable[[], Config]] = {
    "report-sgd": report_sgd,
    "report-text-sgd": report_text_sgd,
    "report-amp": report_amp,
    "paper-amp": paper_amp,
    "sgd": sgd,
    **{name: partial(with_method, kind) for name, kind in METHODS.items() if name != "sgd"},
    "finetune": finetune,
    "best": best,
    "cpu": cpu,
    "quick": quick,
    "quick-amp": quick_amp,
}


def recipe(name: str) -> Config:
    """Return the config of a recipe: NAME, NAME+METHOD (with that method at its defaults), or NAME-MODEL.

    Raises `InputError` for an unknown name.
    """
    if name in RECIPES:
        return RECIPES[name]()
    base, _, method = name.rpartition("+")
    if base and method in METHODS:
        return recipe(base).override({"method": method})
    for model in MODELS:
        if base := name.removesuffix(f"-{model}") if name.endswith(f"-{model}") else "":
            return with_model(recipe(base), model)
    composed = [f"{each}+{method}" for each in RECIPES for method in METHODS if each in name]
    composed += [f"{each}-{model}" for each in RECIPES for model in MODELS if each in name]
    names = [*RECIPES, *composed] if alike(name, composed) else RECIPES
    raise InputError(f"unknown recipe {name!r}: {choose(name, names)} (flatnext recipes lists them)")


def with_model(config: Config, name: str) -> Config:
    """Return a config with a named model, as recipe RECIPE-MODEL. `InputError` for an unknown name."""
    model = replace(named_model(name), parameter_budget=config.model.parameter_budget)
    return replace(config, model=model, recipe=f"{config.recipe}-{name}")


def default_recipes(dataset: str | None) -> tuple[str, str]:
    """Return the recipes that are compared on a data set unless others are named: the baseline, and AMP."""
    return ("quick", "quick-amp") if dataset == "digits" else ("sgd", "amp")


def recipes_for(dataset: str) -> tuple[str, ...]:
    """Return the names of the recipes that are made for a data set."""
    return tuple(name for name in RECIPES if recipe(name).data.dataset == dataset)


def about(name: str) -> str:
    """Return a line on a recipe: the first of its docstring, or what its method is."""
    make = RECIPES[name]
    text = f"sgd with another method: {METHODS[name].__doc__}" if isinstance(make, partial) else make.__doc__ or ""
    return text.splitlines()[0]
