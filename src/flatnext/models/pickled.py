"""Files that `torch.save` wrote, read as data alone: no pickle in them can run code, or work for long.

Torch reads tensors, numbers, strings and containers of them. Beside these stand, in checkpoints of others, numbers of
NumPy and a parsed command line: they are read by the few lines here, whatever a pickle asks NumPy to do.
"""

from __future__ import annotations

import argparse
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flatnext.data.bounded_pickle import BoundedUnpickler, check_keys
from flatnext.errors import InputError
from flatnext.files import open_regular

NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
"""The types of NumPy's numbers, as a pickle names them."""

ZIP = b"PK\x03\x04"
"""What an archive begins with."""

LEGACY_PICKLES = 5
"""The pickles one after another in a file that is no archive, the last with the names of the tensors."""


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


_alone = threading.Lock()


@contextmanager
def _allowing() -> Iterator[None]:
    """Let torch read what is `ALLOWED`: one thread at a time, since that holds for the process.

    What a program has allowed itself stays allowed.
    """
    with _alone:
        there = torch.serialization.get_safe_globals()
        with torch.serialization.safe_globals([item for item in ALLOWED if item not in there]):
            yield


def read_pickled(path: Path) -> Any:
    """Return what a file of `torch.save` holds, tensors on the CPU. `InputError`: it is damaged, or more than data."""
    try:
        _check_keys(path)
        with _allowing():
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load lets through whatever a damaged file makes zipfile or pickle raise.
        raise InputError(f"{path}: {_refusal(path)}") from error


class _Anything:
    """Stands for whatever a pickle names, and keeps nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take anything."""

    def __setstate__(self, state: Any) -> None:
        """Take any state."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Take any item."""

    def append(self, item: Any) -> None:
        """Take any item."""

    def extend(self, items: Any) -> None:
        """Take any items."""


class _Hashing(_Anything):
    """Stands for what hashes its arguments when it is made."""

    def __init__(self, items: Any = (), *_: Any) -> None:
        if isinstance(items, (list, tuple)):
            check_keys(items)
            check_keys(key for item in items if isinstance(item, (list, tuple)) for key in item[:1])


class _Keys(BoundedUnpickler):
    """Reads a pickle for its keys alone: nothing that it names is called."""

    def find_class(self, module: str, name: str) -> type:
        hashing = module in ("builtins", "__builtin__", "collections")
        return type(name, (_Hashing if hashing else _Anything,), {})

    def persistent_load(self, identity: Any) -> _Anything:
        check_keys(identity if isinstance(identity, tuple) else (identity,))
        return _Anything()


def _check_keys(path: Path) -> None:
    """Raise an error for a file with a key that would take long to hash."""
    with open_regular(path) as file:
        is_zip = file.read(len(ZIP)) == ZIP  # as torch tells them apart: a zip may also begin later
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():  # not by name, as two may have one
                if member.filename.endswith(".pkl"):
                    with archive.open(member) as file:
                        _Keys(file, encoding="utf-8").load()
        return
    with open_regular(path) as file:  # as before torch 1.6: a number, a version, the system, and what was saved
        for _ in range(LEGACY_PICKLES):
            _Keys(file, encoding="utf-8").load()


def _refusal(path: Path) -> str:
    """Return why nothing was read, and what to do."""
    try:
        with _allowing():
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
