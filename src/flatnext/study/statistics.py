"""Statistics over seeds: a mean with its interval, and two recipes compared seed by seed.

The runs of a recipe differ in their seed alone, and a seed gives two recipes the same initial weights and the same
order of images; so recipes are compared by the differences within a seed. Two tests look at them: the paired t-test,
which gives the interval and the verdict, and a sign-flip permutation test, which does not assume normal differences.
Values are fractions (accuracy 0.94); sentences speak of percentage points.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import stdtr, stdtrit

from flatnext.errors import InputError

ALPHA = 0.05
"""Level of the tests; the intervals cover 1 - ALPHA, that is 95 %."""

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


@dataclass(frozen=True)
class Comparison:
    """One recipe minus another, over the seeds of both.

    `t`, `p` and the interval are None where the paired t-test is not defined: with one seed, or where the difference
    is the same in all seeds. `p_adjusted` is Holm's, over `family` comparisons; it equals `p` where there is but one.
    """

    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    difference: Estimate
    t: float | None
    p: float | None
    p_permutation: float | None
    p_adjusted: float | None
    family: int = 1

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
        """Whether the first recipe is higher or lower by the paired t-test, after Holm's correction, or neither."""
        if self.p_adjusted is None or self.p_adjusted >= ALPHA:
            return "open"
        return "higher" if self.difference.mean > 0 else "lower"


def estimate(values: Iterable[float]) -> Estimate:
    """Return mean, standard deviation (n - 1) and 95 % t interval of finite values. Raises `ValueError` without any."""
    sample = np.asarray(list(values), dtype=np.float64)
    if sample.size == 0:
        raise ValueError("an estimate needs at least one value")
    n, mean = sample.size, float(sample.mean())
    if n == 1:
        return Estimate(1, mean, None, None, None)
    sd = float(sample.std(ddof=1))
    if sd <= ROUNDING * np.abs(sample).max():
        return Estimate(n, mean, 0.0, None, None)
    half = float(stdtrit(n - 1, 1 - ALPHA / 2)) * sd / math.sqrt(n)
    return Estimate(n, mean, sd, mean - half, mean + half)


def compare_paired(a: Mapping[int, float], b: Mapping[int, float]) -> Comparison:
    """Compare `a` minus `b`, fractions by seed, over the seeds that are in both; `InputError` where there is none."""
    seeds = tuple(sorted(a.keys() & b.keys()))
    if not seeds:
        raise InputError("the recipes have no seed in common: run both with the same seeds")
    # Rounded far below the weight of a single image, so that equal differences are equal whatever was subtracted.
    differences = tuple(round(a[seed] - b[seed], 12) for seed in seeds)
    difference = estimate(differences)
    t = p = None
    if difference.low is not None and difference.sd is not None:
        t = difference.mean / (difference.sd / math.sqrt(difference.n))
        p = 2 * float(stdtr(difference.n - 1, -abs(t)))
    permutation = sign_flip_p(differences) if len(seeds) > 1 else None
    return Comparison(seeds, differences, difference, t, p, permutation, p_adjusted=p)


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


def adjust(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons with Holm's p; those without a t-test do not count."""
    tested = [c.p for c in comparisons if c.p is not None]
    corrected = iter(holm(tested))
    return [replace(c, p_adjusted=next(corrected), family=len(tested)) if c.p is not None else c for c in comparisons]


def p_text(p: float) -> str:
    """Return `= 0.012`, or `< 0.001`; a p just below 0.05 is never shown as 0.050."""
    if p < 0.001:
        return "< 0.001"
    text = f"{p:.3f}"
    return f"= {p:.5f}" if text == "0.050" else f"= {text}"


def points(fraction: float, *, sign: bool = False) -> str:
    """Return a fraction as percentage points, `0.80` or `−0.80`; with `sign`, `+0.80`."""
    text = f"{100 * fraction:+.2f}" if sign else f"{100 * fraction:.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


def sentence(comparison: Comparison, name: str, baseline: str) -> str:
    """Return in words what a comparison of accuracies (fractions, higher is better), `name` − `baseline`, shows."""
    difference = comparison.difference
    if comparison.n == 1:
        return f"{_plain(difference.mean, name, baseline)} with one seed: no statement about chance is possible."
    if comparison.p is None or comparison.p_adjusted is None or difference.low is None or difference.high is None:
        return (
            f"{_plain(difference.mean, name, baseline)} in each of {comparison.n} seeds: without spread there is no "
            "t-test and no interval."
        )
    worse = comparison.verdict == "lower"
    low, high = (-difference.high, -difference.low) if worse else (difference.low, difference.high)
    evidence = f"95 % interval {points(low)} to {points(high)}, {comparison.n} seeds, p {p_text(comparison.p_adjusted)}"
    if comparison.family > 1:
        evidence += f" after Holm's correction for {comparison.family} comparisons"
    evidence += ", paired t-test"
    mean = points(-difference.mean if worse else difference.mean)
    if comparison.verdict == "open":
        return f"No difference shown between {name} and {baseline}: {name} − {baseline} is {mean} points ({evidence})."
    return f"{name} is {'worse' if worse else 'better'} than {baseline} by {mean} points ({evidence})."


def _plain(mean: float, name: str, baseline: str) -> str:
    if mean == 0:
        return f"{name} and {baseline} are equal"
    return f"{name} is {points(abs(mean))} points {'above' if mean > 0 else 'below'} {baseline}"
