"""Reading pickles without work that grows faster than the file: what is hashed is short and flat.

Tuples in tuples, each twice in the next, take twice the time to hash with each level: a few hundred bytes would never
end. Python's own unpickler hashes keys and members of sets as it reads them; here they are looked at before.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any, ClassVar

LONGEST = 16
"""Items of a tuple that may be a key."""

BITS = 64
"""Of a whole number that may be a key: hashing a longer one takes as long each time."""


class UnboundedKeyError(pickle.UnpicklingError):
    """A key of a dict or a member of a set that may take long to hash."""


def check_keys(keys: Iterable[Any]) -> None:
    """Raise `UnboundedKeyError` for keys other than numbers, strings, bytes, objects and short tuples of these."""
    for key in keys:
        items = key if isinstance(key, tuple) else (key,)
        nested = any(isinstance(item, (tuple, frozenset)) for item in items)
        long = any(isinstance(item, int) and item.bit_length() > BITS for item in items)
        if nested or long or len(items) > LONGEST:
            raise UnboundedKeyError("a key that is no number, string or short tuple")


_PythonUnpickler: Any = pickle._Unpickler
"""Python's own, whose steps can be extended; that in C has none to extend."""


class BoundedUnpickler(_PythonUnpickler):
    """An unpickler that checks each key of a dict and member of a set before it is hashed."""

    dispatch: ClassVar[dict[int, Any]] = dict(_PythonUnpickler.dispatch)

    def load_setitem(self) -> None:
        """Set one item of a dict."""
        check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        """Set items of a dict: keys and values in turn, since the last mark."""
        check_keys(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        """Make a dict of the items since the last mark."""
        check_keys(self.stack[::2])
        super().load_dict()

    def load_additems(self) -> None:
        """Add members to a set."""
        check_keys(self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        """Make a frozen set of the items since the last mark."""
        check_keys(self.stack)
        super().load_frozenset()

    for _code, _load in (
        (pickle.SETITEM, load_setitem),
        (pickle.SETITEMS, load_setitems),
        (pickle.DICT, load_dict),
        (pickle.ADDITEMS, load_additems),
        (pickle.FROZENSET, load_frozenset),
    ):
        dispatch[_code[0]] = _load
