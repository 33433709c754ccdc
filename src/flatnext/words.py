"""Numbers of things, and lists of names, as people write them."""

from collections.abc import Iterable


def counted(number: int, noun: str) -> str:
    """Return `1 seed`, `3 seeds`, `0 class folders` or `1,200 classes`."""
    ending = "" if number == 1 else "es" if noun.endswith(("s", "x", "sh", "tch", "nch")) else "s"
    return f"{number:,} {noun}{ending}"


def listing(items: Iterable[str]) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    *rest, last = items
    return f"{', '.join(rest)} and {last}" if rest else last


def shortened(items: Iterable[str], most: int = 3) -> str:
    """Return `a, b, c and 4 more`: the first `most` items, and how many the others are."""
    names = list(items)
    more = [f"{len(names) - most:,} more"] if len(names) > most else []
    return " and ".join([", ".join(names[:most]), *more])
