"""A tiny packed model, and what its card says."""

from __future__ import annotations

import re

from tiny import tiny

NAME = "resnext11-digits-tiny"
CONFIG = tiny(epochs=8, ema=0.5, learning_rate=0.05)


def example(card):
    """Return the program that the card shows."""
    return re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]


def figures(card):
    """Return the metrics of the card's model index by type."""
    return {kind: float(value) for kind, value in re.findall(r"- type: (\w+)\n +name: .*\n +value: (\S+)", card)}


def one_line(caught):
    return "\n" not in str(caught.value)
