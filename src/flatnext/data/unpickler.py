"""Read the pickled batches of CIFAR without calling anything that a pickle may name.

A batch is a dict of lists, strings and one array of bytes. NumPy's names in it are resolved to the two small classes
below, so that not even NumPy sees the file's content before it is checked.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from flatnext.data.bounded_pickle import BoundedUnpickler
from flatnext.errors import InputError
from flatnext.files import open_regular

SHOWN = 60
"""Characters of a name in a pickle that a message shows."""


class _WrongContentError(Exception):
    """What a pickle holds that no batch does."""


class _ByteType:
    """In place of `numpy.dtype`: rejects every type but unsigned bytes."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or code != "u1":
            # Only strings are shown: a few tuples that are nested in each other may take for ever to be written.
            raise _WrongContentError(f"an array of type {code[:SHOWN] if isinstance(code, str) else type(code)!r}")

    def __setstate__(self, state: Any) -> None:
        """Ignore byte order and alignment, which bytes do not have."""


class _Array:
    """In place of `numpy.ndarray` and of the function that makes one; `value` is the checked array (uint8)."""

    value = np.empty(0, np.uint8)

    def __init__(self, *_: Any) -> None:
        """Ignore the empty shape that NumPy's function is called with; the real one follows in the state."""

    def __setstate__(self, state: Any) -> None:
        """Take (version, shape, dtype, is_fortran, content); `ValueError` where they do not fit together."""
        _, shape, kind, is_fortran, content = state
        if isinstance(content, str):  # Python 2 wrote bytes as a string, which arrives as Latin-1
            content = content.encode("latin1")
        sizes = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
        if not (sizes and isinstance(kind, _ByteType) and isinstance(content, bytes)):
            raise ValueError("not an array of bytes")
        if math.prod(shape) != len(content):
            raise _WrongContentError(f"an array of {len(shape)} dimensions made of {len(content)} bytes")
        self.value = np.frombuffer(content, np.uint8).reshape(shape, order="F" if is_fortran else "C")


_ALLOWED: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _ByteType,
}


class _Unpickler(BoundedUnpickler):
    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in _ALLOWED:
            raise _WrongContentError(f"a call of {f'{module}.{name}'[:SHOWN]!r}")
        return _ALLOWED[module, name]


def read_pickle(path: Path) -> dict[str, Any]:
    """Return the dict that a batch or meta file holds, its arrays as uint8 arrays of NumPy.

    Raises `InputError` for a file that is missing, damaged, or holds anything that such a file does not.
    """
    try:
        with open_regular(path) as file:
            content = _Unpickler(file, encoding="latin1").load()
    except _WrongContentError as error:
        raise InputError(f"{path} holds {error}, as no published file does: replace it") from None
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} is missing: put the published file there") from None
    except Exception as error:  # a damaged pickle may raise anything, MemoryError and IndexError among them
        raise InputError(
            f"{path} is damaged or not a CIFAR file ({type(error).__name__}): replace it by the published one"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{path} does not hold a dict, as a CIFAR file does: replace it by the published one")
    return {key: value.value if isinstance(value, _Array) else value for key, value in content.items()}
