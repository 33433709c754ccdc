"""How the report writes numbers: accuracies in per cent, differences in percentage points, a dash for what is not."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime

from flatnext.study.statistics import Estimate, interval_digits, p_digits
from flatnext.words import DASH, decimal


def decimals(values: Iterable[float]) -> int:
    """Return the number of decimals that shows three digits of the largest of the values, 8 at most."""
    largest = max(map(abs, values), default=0.0)
    return min(8, max(0, 2 - math.floor(math.log10(largest)))) if largest > 0 else 2


def mean_sd(estimate: Estimate, scale: float = 1.0, digits: int = 2) -> str:
    """Return `94.52 ± 0.21`, the mean alone where there is no standard deviation."""
    mean = decimal(scale * estimate.mean, digits)
    return mean if estimate.sd is None else f"{mean} ± {scale * estimate.sd:.{digits}f}"


def interval(estimate: Estimate, scale: float = 100.0, digits: int = 2, *, sign: bool = False) -> str:
    """Return `0.50 to 1.10`."""
    if estimate.low is None or estimate.high is None:
        return DASH
    digits = interval_digits(estimate.low, estimate.high, scale, digits)
    return " to ".join(decimal(scale * end, digits, sign=sign) for end in (estimate.low, estimate.high))


def probability(value: float | None) -> str:
    """Return a p value, `0.0123` or `< 0.0001`."""
    return DASH if value is None else p_digits(value, 4)


def certainty(value: float) -> str:
    """Return a confidence in per cent, never rounded up to certainty."""
    return f"{min(100 * value, 99.99):.2f} %" if value < 1 else "100 %"


def moment(text: str) -> str:
    """Return an ISO 8601 time as `2026-11-23 05:00 UTC`; without a time zone, as it is."""
    try:
        time = datetime.fromisoformat(text)
        return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if time.tzinfo else text
    except (ValueError, OverflowError):
        return text


def span(values: Iterable[str]) -> str:
    """Return the first and the last of sorted texts, `7` or `7 to 12`."""
    texts = list(values)
    return " to ".join(dict.fromkeys((texts[0], texts[-1])))
