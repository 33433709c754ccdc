"""How measures report their progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[float, float], object]
"""Called with how much is done and how much there is, in images, points, steps or probes."""


def silent(done: float, total: float) -> None:
    """Report nothing."""
