"""Gradient rules, one small file a method, for this project's loop or anybody's.

In a loop of your own::

    rule = functools.partial(flatnext.amp, epsilon=0.5)
    loss = rule(closure, model.parameters(), model.buffers())
    optimizer.step()
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict

from flatnext import config
from flatnext.methods.amp import amp
from flatnext.methods.rule import Rule
from flatnext.methods.sgd import sgd

__all__ = ["METHODS", "Rule", "amp", "build", "sgd"]

METHODS: dict[type[config.Method], Callable] = {config.Sgd: sgd, config.Amp: amp}


def build(settings: config.Method) -> Rule:
    """Return the gradient rule with the settings of a config."""
    return functools.partial(METHODS[type(settings)], **asdict(settings))
