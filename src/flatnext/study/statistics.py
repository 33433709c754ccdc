"""Statistics over seeds: a mean with its interval, and two recipes compared seed by seed.

The runs of a recipe differ in their seed alone, and a seed gives two recipes the same initial weights and the same
order of images; so recipes are compared by the differences within a seed. Two tests look at them: the paired t-test,
which gives the interval and the verdict, and a sign-flip permutation test, which does not assume normal differences.
Values are fractions (accuracy 0.94); sentences speak of percentage points.

Several comparisons that answer one question are corrected by Holm's procedure, their intervals with their p: the
interval of the k-th smallest p of m has the level 1 - ALPHA / (m - k + 1), and from the first that is not rejected on
all have the level of that one. All that were planned count, also those that are not finished or have no test. So an
interval leaves zero out exactly where Holm's p is below ALPHA, and any of them does so by chance in at most 5 % of
studies.

Where a study adds seeds until it has decided, p and intervals are those of a sequential t-test, which allow for every
look: see `flatnext.study.sequential`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtr, stdtrit

from flatnext.errors import InputError
from flatnext.study.sequential import anytime_p, critical_t
from flatnext.words import decimal

ALPHA = 0.05
"""Level of the tests; the intervals cover 1 - ALPHA, that is 95 %."""

FEWEST_SEEDS = 3
"""With fewer seeds there are figures and no verdict."""

FEWEST_FOR_SIGN_FLIPS = 6
"""The fewest seeds with which the sign-flip test can give a p below ALPHA: 2 / 2**6 is 0.031."""

POWER = 0.8
"""The chance with which a study of `seeds_needed` seeds shows the difference, if it is what was seen."""

MOST_SEEDS = 1000
"""Where more would be needed, their number says no more than that."""

MOST_DIGITS = 8
"""Decimals of an end of an interval that is all but zero."""

EXACT_UP_TO = 20
"""Differences up to which the permutation test goes through all sign patterns."""

DRAWS = 100_000
"""Random sign patterns beyond that."""

ROUNDING = 1e-12
"""A spread smaller than this, relative to the values, is rounding and counts as none."""


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` values. One value has no standard deviation; without spread there is no interval."""

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None

    def within(self, least: float, most: float) -> Estimate:
        """Return the estimate of a mean that lies between two numbers: its interval is cut there.

        The cut interval covers the mean exactly as often: what is cut off cannot be the mean.
        """
        if self.low is None or self.high is None:
            return self
        return replace(self, low=max(self.low, least), high=min(self.high, most))


@dataclass(frozen=True)
class Comparison:
    """One recipe minus another, over the seeds of both.

    `t`, `p` and the interval are None where the paired t-test is not defined: with one seed, or where the difference
    is the same in all seeds. `p_adjusted` is Holm's, over `family` comparisons, and the interval of `difference` has
    the level 1 - `alpha` that goes with it; with a single comparison they are `p` and 0.95. With `sequential` p and
    interval are those of the sequential t-test.
    """

    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    difference: Estimate
    t: float | None
    p: float | None
    p_permutation: float | None
    p_adjusted: float | None
    family: int = 1
    alpha: float = ALPHA
    sequential: bool = False

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.seeds)

    @property
    def smallest_permutation_p(self) -> float:
        """The smallest p that the permutation test can give with this many pairs."""
        return 2.0 ** (1 - self.n) if self.n <= EXACT_UP_TO else 1 / (DRAWS + 1)

    @property
    def verdict(self) -> Literal["higher", "lower", "open"]:
        """Whether the first recipe is higher or lower: exactly if the interval leaves zero out, from 3 seeds on."""
        low, high = self.difference.low, self.difference.high
        if self.n < FEWEST_SEEDS or low is None or high is None or low <= 0 <= high:
            return "open"
        return "higher" if low > 0 else "lower"

    @property
    def seeds_needed(self) -> int | None:
        """How many seeds it would take to show this difference, with this spread and at this level.

        None where nothing can be said: without a difference or a spread, or with more than `MOST_SEEDS`.
        """
        mean, sd = self.difference.mean, self.difference.sd
        return seeds_needed(mean / sd, self.alpha) if mean and sd else None


def estimate(values: Iterable[float], alpha: float = ALPHA, *, sequential: bool = False) -> Estimate:
    """Return mean, standard deviation (n - 1) and t interval of finite values. Raises `ValueError` without any.

    With `sequential` the interval holds at every number of values at once; of too few there is none.
    """
    sample = np.asarray(list(values), dtype=np.float64)
    if sample.size == 0:
        raise ValueError("an estimate needs at least one value")
    n, mean = sample.size, float(sample.mean())
    if n == 1:
        return Estimate(1, mean, None, None, None)
    sd = float(sample.std(ddof=1))
    if sd <= ROUNDING * np.abs(sample).max():
        return Estimate(n, mean, 0.0, None, None)
    critical = critical_t(n, alpha) if sequential else float(stdtrit(n - 1, 1 - alpha / 2))
    if critical == math.inf:
        return Estimate(n, mean, sd, None, None)
    half = critical * sd / math.sqrt(n)
    return Estimate(n, mean, sd, mean - half, mean + half)


def compare_paired(a: Mapping[int, float], b: Mapping[int, float], *, sequential: bool = False) -> Comparison:
    """Compare `a` minus `b`, fractions by seed, over the seeds that are in both; `InputError` where there is none.

    `sequential`: the number of seeds was not fixed beforehand, but follows from what they showed.
    """
    seeds = tuple(sorted(a.keys() & b.keys()))
    if not seeds:
        raise InputError("the recipes have no seed in common: run both with the same seeds")
    # Rounded far below the weight of a single image, so that equal differences are equal whatever was subtracted.
    differences = tuple(round(a[seed] - b[seed], 12) for seed in seeds)
    difference = estimate(differences, sequential=sequential)
    t = p = None
    if difference.sd:
        t, n = difference.mean / (difference.sd / math.sqrt(difference.n)), difference.n
        p = anytime_p(t, n) if sequential else 2 * float(stdtr(n - 1, -abs(t)))
    permutation = sign_flip_p(differences) if len(seeds) > 1 else None
    return Comparison(seeds, differences, difference, t, p, permutation, p_adjusted=p, sequential=sequential)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Return the two-sided p of the test that flips the sign of each difference: exact up to `EXACT_UP_TO` of them.

    Under the hypothesis that the two recipes are exchangeable within a seed each pattern of signs is as likely as the
    next; p is the share of patterns whose sum is at least as far from zero as the one observed (Fisher 1935). Beyond, p
    is estimated from `DRAWS` random patterns, always the same ones, the observed one counted in.
    """
    values = np.asarray(differences, dtype=np.float64)
    threshold = abs(float(values.sum())) - 1e-9 * float(np.abs(values).sum())  # ties are ties in spite of rounding
    if values.size <= EXACT_UP_TO:
        sums = values[:1]  # a pattern and its mirror image have the same size of sum: the first sign stays
        for value in values[1:]:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= threshold))
    signs = np.random.default_rng(0).integers(0, 2, (DRAWS, values.size), dtype=np.int8) * 2 - 1
    reached = np.abs(signs @ values) >= threshold
    return float((1 + reached.sum()) / (DRAWS + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values adjusted for their number by Holm's step-down procedure (Holm 1979), in the order given."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def levels(p_values: Sequence[float]) -> list[float]:
    """Return the alpha of each p value's step in Holm's procedure, in the order given; those not rejected share one."""
    alphas = [ALPHA] * len(p_values)
    rejecting, alpha = True, ALPHA
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if rejecting:
            alpha = ALPHA / (len(p_values) - rank)
            rejecting = p_values[index] < alpha
        alphas[index] = alpha
    return alphas


def adjust(comparisons: Sequence[Comparison], missing: int = 0) -> list[Comparison]:
    """Return the comparisons with Holm's p and the intervals that go with it.

    Those without a t-test, and so many that are `missing` as they cannot be made yet, count with a p of 1: else a
    verdict could go when they come.
    """
    values = [1.0 if c.p is None else c.p for c in comparisons] + [1.0] * missing
    steps = list(zip(holm(values), levels(values), strict=True))[: len(comparisons)]
    return [c if c.p is None else _corrected(c, len(values), *step) for c, step in zip(comparisons, steps, strict=True)]


def _corrected(comparison: Comparison, family: int, p: float, alpha: float) -> Comparison:
    interval = estimate(comparison.differences, alpha, sequential=comparison.sequential)
    return replace(comparison, p_adjusted=p, family=family, alpha=alpha, difference=interval)


def power(effect: float, n: ArrayLike, alpha: float = ALPHA) -> NDArray[np.float64]:
    """Return the power of the two-sided paired t-test with n pairs, where mean / sd of the differences is `effect`."""
    from scipy.stats import nct  # it takes most of a second to import; scipy.special's form is NaN for large effects

    n = np.asarray(n)
    shift, critical = abs(effect) * np.sqrt(n), stdtrit(n - 1, 1 - alpha / 2)
    return np.asarray(nct.sf(critical, n - 1, shift) + nct.sf(critical, n - 1, -shift))


def seeds_needed(effect: float, alpha: float = ALPHA) -> int | None:
    """Return the fewest seeds, from 3 on, with which the paired t-test has a power of 80 %; None beyond 1,000."""
    seeds = np.arange(FEWEST_SEEDS, MOST_SEEDS + 1)
    enough = seeds[power(effect, seeds, alpha) >= POWER]
    return int(enough[0]) if enough.size else None


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval (Wilson 1927) of a share of `count` images, by their number alone."""
    z = float(ndtri(1 - ALPHA / 2))
    centre, half = share + z**2 / (2 * count), z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    scale = 1 + z**2 / count
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def p_digits(p: float, digits: int) -> str:
    """Return `0.012`, or `< 0.001`, with so many digits; a p about 0.05 has two more."""
    if p < 10**-digits:
        return f"< {10**-digits:.{digits}f}"
    text = f"{p:.{digits}f}"
    return f"{p:.{digits + 2}f}" if float(text) == ALPHA else text


def p_text(p: float) -> str:
    """Return `= 0.012`, or `< 0.001`."""
    text = p_digits(p, 3)
    return text if text.startswith("<") else f"= {text}"


def points(fraction: float, *, sign: bool = False, digits: int = 2) -> str:
    """Return a fraction as percentage points, `0.80` or `−0.80`; with `sign`, `+0.80`."""
    return decimal(100 * fraction, digits, sign=sign)


def interval_digits(low: float, high: float, scale: float = 100.0, digits: int = 2) -> int:
    """Return how many decimals the ends of an interval need, so that none is shown as zero that is not."""
    while digits < MOST_DIGITS and any(end and round(scale * end, digits) == 0 for end in (low, high)):
        digits += 1
    return digits


def sentence(comparison: Comparison, name: str, baseline: str, unit: str = "points") -> str:
    """Return in words what a comparison of accuracies (fractions, higher is better), `name` − `baseline`, shows."""
    difference = comparison.difference
    if comparison.n < FEWEST_SEEDS:
        seeds = "one seed" if comparison.n == 1 else f"{comparison.n} seeds"
        return (
            f"{_plain(difference.mean, name, baseline, unit)} with {seeds}: no statement about chance below "
            f"{FEWEST_SEEDS} seeds."
        )
    if comparison.p_adjusted is not None and difference.low is None:
        return (
            f"{_plain(difference.mean, name, baseline, unit)} in {comparison.n} seeds: too few for the sequential "
            "t-test to have an interval."
        )
    if comparison.p_adjusted is None or difference.low is None or difference.high is None:
        return (
            f"{_plain(difference.mean, name, baseline, unit)} in each of {comparison.n} seeds: without spread there is "
            "no t-test and no interval."
        )
    verdict = comparison.verdict
    mean = points(-difference.mean if verdict == "lower" else difference.mean)
    if verdict == "open":
        return (
            f"No difference shown between {name} and {baseline}: {name} − {baseline} is {mean} {unit} "
            f"({_evidence(comparison)}). {needed(comparison)}"
        ).rstrip()
    better = "worse" if verdict == "lower" else "better"
    return f"{name} is {better} than {baseline} by {mean} {unit} ({_evidence(comparison)})."


def needed(comparison: Comparison) -> str:
    """Return a sentence on how many seeds would show a difference as large as the one seen; empty without a spread."""
    if comparison.n < 2 or not comparison.difference.sd or not comparison.difference.mean or comparison.sequential:
        return ""  # the power is that of the ordinary t-test
    seeds = comparison.seeds_needed
    number = f"about {seeds:,}" if seeds else f"more than {MOST_SEEDS:,}"
    return f"With this spread it takes {number} seeds to show a difference of this size (power 80 %)."


def _evidence(comparison: Comparison) -> str:
    """Return interval, seeds and p; both ends turned round for "worse by"."""
    difference = comparison.difference.within(-1, 1)
    low, high = difference.low, difference.high
    assert comparison.p_adjusted is not None
    assert low is not None
    assert high is not None
    if comparison.verdict == "lower":
        low, high = -high, -low
    digits = interval_digits(low, high)
    ends = f"{points(low, digits=digits)} to {points(high, digits=digits)}"
    level = f"{100 * (1 - comparison.alpha):.4g} % interval {ends}"
    text = f"{level}, {comparison.n} seeds, p {p_text(comparison.p_adjusted)}"
    if comparison.family > 1:
        text += f", both by Holm's procedure for {comparison.family} comparisons"
    return f"{text}, {'sequential' if comparison.sequential else 'paired'} t-test"


def _plain(mean: float, name: str, baseline: str, unit: str) -> str:
    if mean == 0:
        return f"{name} and {baseline} are equal"
    return f"{name} is {points(abs(mean))} {unit} {'above' if mean > 0 else 'below'} {baseline}"
