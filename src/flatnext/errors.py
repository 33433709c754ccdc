"""The one exception and the one warning that users are meant to read, and the remedy for a name that does not exist."""

from __future__ import annotations

import warnings
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input. The message is one line that names the setting or the file, and the remedy.

    The command line prints the message without a traceback and exits with status 2.
    """


class FallbackWarning(UserWarning):
    """Something does not work here, and the work goes on in another way. The message says why, and what it costs."""


def warn_of_fallback(message: str) -> None:
    """Warn of a fallback. Python shows the same message once; the command line shows it as one line."""
    warnings.warn(message, FallbackWarning, stacklevel=3)


def choose(name: object, names: Iterable[str]) -> str:
    """Return the remedy for an unknown name: `did you mean amp?`, or all `names` where none is like it."""
    import difflib  # needed only where something is wrong

    alike = {_plain(known): known for known in names}
    close = difflib.get_close_matches(_plain(name), alike, n=1, cutoff=0.65)
    return f"did you mean {alike[close[0]]}?" if close else f"choose one of {', '.join(alike.values()) or 'none'}"


def _plain(name: object) -> str:
    return str(name).lower().replace("_", "-")
