"""Plain training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from torch import Tensor

from flatnext.methods.perturbation import checked_pass, distinct
from flatnext.methods.rule import explained

T = TypeVar("T")


@explained
def sgd(closure: Callable[[], T], parameters: Iterable[Tensor], buffers: Iterable[Tensor]) -> T:
    """Leave the gradient of the batch in `p.grad`: one pass, no perturbation. See `flatnext.methods.Rule`."""
    return checked_pass(closure, distinct(parameters))[0]
