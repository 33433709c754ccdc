"""Files that `torch.save` wrote, read as data alone: no pickle in them can run code, or work for long.

Torch reads tensors, numbers, strings and containers of them. Beside these stand, in checkpoints of others, numbers of
NumPy and a parsed command line: they are read by the few lines here, whatever a pickle asks NumPy to do.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flatnext.errors import InputError

NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
"""The types of NumPy's numbers, as a pickle names them."""


class NumberType:
    """Stands for `numpy.dtype` of a number, in the byte order of its state."""

    def __init__(self, name: str, *_: Any) -> None:
        if not isinstance(name, str) or name not in NUMBERS:  # not shown: tuples in tuples may be endless
            raise ValueError("a NumPy type that is no number's")
        self.name, self.order = name, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if state[1] == ">" else "<"


def number(kind: NumberType, content: bytes | str) -> float | int | bool:
    """Stand for `numpy.core.multiarray.scalar`: return a Python number from its bytes, which may come as latin-1."""
    data = content.encode("latin-1") if isinstance(content, str) else content
    return np.frombuffer(data, kind.order + kind.name, count=1)[0].item()


ALLOWED: list[Any] = [
    argparse.Namespace,
    (NumberType, "numpy.dtype"),
    (number, "numpy._core.multiarray.scalar"),
    (number, "numpy.core.multiarray.scalar"),  # before NumPy 2
]


def read_pickled(path: Path) -> Any:
    """Return what a file of `torch.save` holds, tensors on the CPU. `InputError`: it is damaged, or more than data."""
    try:
        with torch.serialization.safe_globals(ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load lets through whatever a damaged file makes zipfile or pickle raise.
        raise InputError(f"{path}: {_refusal(path)}") from error


def _refusal(path: Path) -> str:
    """Return why nothing was read, and what to do."""
    try:
        with torch.serialization.safe_globals(ALLOWED):
            refused = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # the same that made `torch.load` fail
        refused = []
    named = f" ({', '.join(sorted(refused)[:3])})" if refused else ""
    if any(name.startswith("torch.nn.modules.") for name in refused):
        return (
            f"holds a whole pickled module{named}, which is not read since it could run code: where it was made, save "
            "its weights with torch.save(model.state_dict(), PATH)"
        )
    return (
        f"not a weights file, or damaged, or with more in it than tensors, numbers and strings{named}, which is not "
        "read since it could run code: give a safetensors file, or what torch.save(model.state_dict(), PATH) wrote"
    )
