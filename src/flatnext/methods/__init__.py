"""Gradient rules, a file a method, for this project's training loop or your own.

In a loop of your own::

    rule = functools.partial(flatnext.amp, epsilon=0.5)
    loss = rule(closure, model.parameters(), model.buffers())
    optimizer.step()

To add a method, write its settings in `flatnext/config/method.py` and its rule in a file here, and add it to `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from flatnext import config
from flatnext.data import Normalization
from flatnext.errors import InputError
from flatnext.methods.adversarial import adversarial
from flatnext.methods.amp import amp
from flatnext.methods.bound_method import BoundMethod, keyword_arguments, norm_parameters
from flatnext.methods.momentum_amp import momentum_amp
from flatnext.methods.optimizer import AMP, ASAM, SAM
from flatnext.methods.perturbation import warn_of_rounding
from flatnext.methods.rmp import rmp
from flatnext.methods.rule import Rule
from flatnext.methods.sam import asam, sam
from flatnext.methods.sgd import sgd

__all__ = [
    "AMP",
    "ASAM",
    "RULES",
    "SAM",
    "BoundMethod",
    "Rule",
    "adversarial",
    "amp",
    "asam",
    "bind",
    "momentum_amp",
    "norm_parameters",
    "rmp",
    "sam",
    "sgd",
]

RULES: dict[str, Callable[..., Any]] = {
    "sgd": sgd,
    "amp": amp,
    "momentum-amp": momentum_amp,
    "rmp": rmp,
    "sam": sam,
    "asam": asam,
    "adversarial": adversarial,
}
"""The rule of each method of `flatnext.config.METHODS`, by its name.

A rule's keyword-only arguments are settings by their names, and of these what it needs: `optimizer`, `generator`, and
`unit`, `low` and `high`, which describe the pixels of normalised images.
"""


def bind(
    settings: config.Method,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    total_steps: int,
    seed: int = 0,
    normalization: Normalization | None = None,
) -> BoundMethod:
    """Return a method at work on a model, which is on its device; for the arguments see `BoundMethod`.

    `InputError`: a method that perturbs the images is not told how they were normalised.
    """
    if isinstance(settings, config.Perturbation) and settings.perturbs == "images" and normalization is None:
        raise InputError(
            f"{settings.name} needs the normalization of the images, such as flatnext.load_data(...).normalization"
        )
    rule = RULES[settings.name]
    if isinstance(settings, config.Perturbation) and settings.perturbs == "weights":
        warn_of_rounding(model.parameters())
    draws = "generator" in keyword_arguments(rule)
    return BoundMethod(
        rule=rule,
        settings=settings,
        model=model,
        optimizer=optimizer,
        total_steps=total_steps,
        seed=seed,
        normalization=normalization,
        generator=torch.Generator(next(model.parameters()).device) if draws else None,
    )
