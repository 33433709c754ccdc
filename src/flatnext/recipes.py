"""Named configs. A recipe is a function; its docstring says where its settings come from.

`flatnext train --recipe NAME` runs one, `flatnext study --recipes NAME NAME` compares some; `RECIPES` is the table that
the command line reads. What was reached, and in which time, is in `docs/results.md`: a recipe that is not there has not
been run at full length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from flatnext.config import (
    Adversarial,
    Amp,
    Asam,
    Config,
    Data,
    Method,
    Model,
    MomentumAmp,
    Optimizer,
    Rmp,
    Sam,
    Schedule,
)
from flatnext.errors import InputError

T = TypeVar("T")


def report_sgd() -> Config:
    """SGD as the report's code ran it: rate 0.001, batch 64, cosine over 200 epochs of which 100 are run.

    Trains on all 50,000 images and keeps the last epoch; the report chose its epoch on the test set.
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
    """SGD as the report's text has it: rate 0.001, weight decay 1e-4, batch 64, no momentum and no schedule named."""
    return replace(
        report_sgd(),
        recipe="report-text-sgd",
        optimizer=Optimizer(learning_rate=0.001, momentum=0.0, nesterov=False, weight_decay=1e-4, decay_all=True),
        schedule=Schedule(schedule="constant"),
    )


def report_amp() -> Config:
    """AMP as the report's code ran it, from scratch: rate 0.1, epsilon 0.5, inner rate 1, no weight decay, batch 64."""
    return replace(
        report_sgd(),
        recipe="report-amp",
        method=Amp(epsilon=0.5, inner_lr=1.0, inner_iter=1, ball="tensor"),
        optimizer=Optimizer(learning_rate=0.1, nesterov=False, weight_decay=0.0),
    )


def paper_amp() -> Config:
    """AMP as its authors ran it (arXiv 2010.04925 and their code): 200 epochs of batches of 50, clipped to norm 50."""
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
    """Nesterov SGD, rate annealed from 0.1 to zero over 100 epochs, weight decay off batch norm and biases, cutout.

    Cutout of 16 pixels is worth about a point at this size: 95.09 to 96.29 % for a pre-activation ResNet of 4.3 million
    parameters in 200 epochs (hysts/pytorch_image_classification). It has not been run at full length here.
    """
    return Config(recipe="sgd", data=Data(cutout=16), schedule=Schedule(warmup_epochs=1.0))


def amp() -> Config:
    """The recipe `sgd` with AMP at its authors' radius for cutout, epsilon 0.3 and inner rate 0.5; no more differs."""
    return replace(sgd(), recipe="amp", method=Amp(epsilon=0.3, inner_lr=0.5))


def _with(method: Method) -> Config:
    return replace(sgd(), recipe=method.name, method=method)


def momentum_amp() -> Config:
    """The recipe `sgd` with AMP along the momentum. The radius is AMP's; it has not been tuned."""
    return _with(MomentumAmp(epsilon=0.3, inner_lr=0.5))


def rmp() -> Config:
    """The recipe `sgd` with random perturbations of AMP's size, the AMP paper's control."""
    return _with(Rmp(epsilon=0.3, inner_lr=0.5))


def sam() -> Config:
    """The recipe `sgd` with SAM at the radius that its authors use on CIFAR-10."""
    return _with(Sam())


def asam() -> Config:
    """The recipe `sgd` with ASAM at a radius for the form that scales biases too; see `docs/methods/asam.md`."""
    return _with(Asam())


def adversarial() -> Config:
    """The recipe `sgd` on images that are changed by FGSM, by at most 2/255 a pixel."""
    return _with(Adversarial())


def cpu() -> Config:
    """For a machine without a GPU: SGD with a triangular rate up to 0.4, most epochs on smaller images.

    Batches of 128, weight decay off batch norm and biases, label smoothing, alternating flips; all 50,000 images are
    trained on and the last epoch is kept. There is no test curve: on two cores it would cost minutes an epoch.
    About three hours on two cores with bf16, 93.00 % on the CIFAR-10 test set (n = 1).
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


def best() -> Config:
    """A first draft for the highest accuracy, on a GPU; it has not been run.

    200 epochs with TrivialAugment, cutout of 8 pixels, label smoothing, a moving average of the weights, and AMP at
    the radius that its authors give for strong augmentation (AutoAugment): epsilon 0.1, inner rate 0.1.
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
    """Plain SGD on scikit-learn's handwritten digits (8x8 pixels, no download): the report's model, in seconds.

    205 steps in all, about 20 seconds on two cores, 96.7 % on the test set (n = 5). The rate was chosen on the
    validation split.
    """
    return Config(
        recipe="quick",
        data=Data(dataset="digits", crop_padding=1, flip="none"),
        optimizer=Optimizer(learning_rate=0.02),
        schedule=Schedule(warmup_epochs=1.0),
        epochs=5,
        batch_size=32,
    )


def quick_amp() -> Config:
    """The recipe `quick` with AMP.

    About 40 seconds on two cores, 96.6 % (n = 5). The radius was chosen on the validation split: in 200 steps from
    scratch AMP does not train with the authors' 0.5.
    """
    return replace(quick(), recipe="quick-amp", method=Amp(epsilon=0.01))


RECIPES: dict[str, Callable[[], Config]] = {
    make().recipe: make
    for make in (
        *(report_sgd, report_text_sgd, report_amp, paper_amp),
        *(sgd, amp, momentum_amp, rmp, sam, asam, adversarial),
        *(best, cpu, quick, quick_amp),
    )
}

MODELS: dict[str, Model] = {
    "resnext29": Model(),
    "resnext20": Model(blocks=(2, 2, 2)),
    "resnext11": Model(blocks=(1, 1, 1), cardinality=8),
    # The rest have the parameters of resnext29 to within 3.1 %, and at most 5 million: docs/models.md.
    "resnext29-stem3": Model(stem_kernel=3),
    "resnext29-64x2d": Model(cardinality=64, bottleneck_width=2),
    "resnext26-16x8d": Model(blocks=(3, 2, 3), cardinality=16, bottleneck_width=8),
    "resnext29-4x27d": Model(cardinality=4, bottleneck_width=27),
    "resnext29-1x75d": Model(cardinality=1, bottleneck_width=75),
    "resnext17-32x5d": Model(blocks=(2, 1, 2), bottleneck_width=5),
    "resnext50-16x6d": Model(blocks=(5, 6, 5), cardinality=16, bottleneck_width=6),
    "resnet30": Model(block="basic", blocks=(5, 5, 4), cardinality=1, bottleneck_width=56, stem=16, stem_kernel=3),
    "preact30": Model(block="preact", blocks=(5, 5, 4), cardinality=1, bottleneck_width=56, stem=16, stem_kernel=3),
    "sknet44": Model(block="sk", blocks=(5, 4, 5), bottleneck_width=3),
    "pyramid38": Model(blocks=(4, 4, 4), bottleneck_width=2, widths="pyramid", pyramid_alpha=432),
}


def recipe(name: str) -> Config:
    """Return the config of a named recipe. Raises `InputError` for an unknown name."""
    return _look_up(RECIPES, "recipe", name)()


def model(name: str) -> Model:
    """Return the settings of a named model. Raises `InputError` for an unknown name."""
    return _look_up(MODELS, "model", name)


def _look_up(table: dict[str, T], kind: str, name: str) -> T:
    if name not in table:
        raise InputError(f"unknown {kind} {name!r}: choose one of {', '.join(table)}")
    return table[name]
