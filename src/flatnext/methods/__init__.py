"""Gradient rules, one small file a method, for this project's loop or anybody's.

In a loop of your own::

    rule = functools.partial(flatnext.amp, epsilon=0.5)
    loss = rule(closure, model.parameters(), model.buffers())
    optimizer.step()
"""

from flatnext.methods.adversarial import adversarial
from flatnext.methods.amp import amp
from flatnext.methods.bound import METHODS, BoundMethod, norm_parameters
from flatnext.methods.momentum_amp import momentum_amp
from flatnext.methods.optimizer import AMP
from flatnext.methods.rmp import rmp
from flatnext.methods.rule import Rule
from flatnext.methods.sam import asam, sam
from flatnext.methods.sgd import sgd

__all__ = [
    "AMP",
    "METHODS",
    "BoundMethod",
    "Rule",
    "adversarial",
    "amp",
    "asam",
    "momentum_amp",
    "norm_parameters",
    "rmp",
    "sam",
    "sgd",
]
