"""The one exception and the one warning that users are meant to read, and the remedy for a name that does not exist."""

from __future__ import annotations

import warnings
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input. The message is one line that names the setting or the file, and the remedy.

    The command line prints the message without a traceback and exits with status 2.
    """


class FallbackWarning(UserWarning):
    """The work goes on in another way, or without something. The message says why, and what it costs."""


_said: set[str] = set()
"""The warnings that are shown once, wherever they come from. Python's own list of them is emptied by each
`warnings.catch_warnings`."""


def warn_of_fallback(message: str, *, once: bool = False) -> None:
    """Warn of a fallback. The command line shows it as one line.

    Python shows the same message of the same place once; with `once` also the same message of different places.
    """
    if not once:
        warnings.warn(message, FallbackWarning, stacklevel=3)
    elif message not in _said:
        _said.add(message)
        warnings.warn_explicit(message, FallbackWarning, "flatnext", 1)


FEW = 8
"""Of so few names all are shown, unless one is very much like what was given."""


AS_ALIKE = 0.03
"""Names whose likeness differs by less are as likely to be meant."""


def choose(name: object, names: Iterable[str]) -> str:
    """Return the remedy for an unknown name: `did you mean amp or rmp?`, or all `names` where none is like it."""
    names = list(names)
    close = alike(name, names, 0.8 if len(names) <= FEW else 0.65)
    return f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(names) or 'none'}"


def alike(name: object, names: Iterable[str], cutoff: float = 0.65) -> list[str]:
    """Return which of `names` are most like a name, at most three; case, `-` and `_` make no difference."""
    import difflib  # needed only where something is wrong

    word, plain = _plain(name), {_plain(known): known for known in names}
    close = difflib.get_close_matches(word, plain, n=3, cutoff=cutoff)
    first = [other for other in close if other[:1] == word[:1]] or close  # most slips are not in the first letter
    likeness = {other: difflib.SequenceMatcher(None, other, word).ratio() for other in first}
    return [plain[other] for other in first if likeness[other] > likeness[first[0]] - AS_ALIKE]


def _plain(name: object) -> str:
    return str(name).lower().replace("_", "-")
