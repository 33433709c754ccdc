"""Numbers, times and lists of names as people write them."""

from collections.abc import Iterable

DASH = "–"
"""For a number that is not there."""


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


def duration(seconds: float) -> str:
    """Return `4.2 s`, `45 s`, `12 min 30 s` or `3 h 05 min`."""
    if seconds < 9.95:  # beyond, a tenth would round to 10.0
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def decimal(value: float | None, digits: int, *, sign: bool = False) -> str:
    """Return a number with a fixed number of decimals, `−0.80`, or `+0.80` with `sign`; zero has no sign."""
    if value is None:
        return DASH
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", "−")
