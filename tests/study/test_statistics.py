"""The study's statistics against scipy's, and in words."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from flatnext.errors import InputError
from flatnext.study.statistics import (
    EXACT_UP_TO,
    FEWEST_FOR_SIGN_FLIPS,
    adjust,
    compare_paired,
    estimate,
    holm,
    p_text,
    points,
    power,
    seeds_needed,
    sentence,
    sign_flip_p,
    wilson,
)

SGD = {0: 0.941, 1: 0.939, 2: 0.944, 3: 0.940, 4: 0.942}
AMP = {0: 0.948, 1: 0.949, 2: 0.950, 3: 0.9495, 4: 0.951}

fractions = st.integers(0, 10_000).map(lambda count: count / 10_000)


@settings(max_examples=60, deadline=None)
@given(st.lists(fractions, min_size=2, max_size=12))
def test_an_estimate_is_the_t_interval(values: list[float]) -> None:
    found = estimate(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.sd == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    if len(set(values)) == 1:
        assert (found.low, found.high) == (None, None)
    else:
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert (found.low, found.high) == pytest.approx((low, high))


def test_an_estimate_from_one_value_claims_no_spread() -> None:
    found = estimate([0.5])
    assert (found.n, found.mean, found.sd, found.low, found.high) == (1, 0.5, None, None, None)


@settings(deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=6),
    st.floats(0, 1),
)
def test_an_interval_that_is_cut_covers_as_often(values: list[float], mean: float) -> None:
    """What may be the mean of accuracies is in the cut interval exactly if it is in the whole one."""
    whole = estimate(values)
    cut = whole.within(0, 1)
    if whole.low is None or whole.high is None:
        assert cut == whole
        return
    assert cut.low is not None
    assert cut.high is not None
    assert 0 <= cut.low <= cut.high <= 1
    assert (cut.low <= mean <= cut.high) == (whole.low <= mean <= whole.high)


def test_an_estimate_needs_a_value() -> None:
    with pytest.raises(ValueError, match="at least one"):
        estimate([])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(fractions, fractions), min_size=2, max_size=10))
def test_the_paired_t_test_is_scipys(pairs: list[tuple[float, float]]) -> None:
    a, b = ({seed: pair[side] for seed, pair in enumerate(pairs)} for side in (0, 1))
    found = compare_paired(a, b)
    if len({round(x - y, 10) for x, y in pairs}) == 1:
        assert (found.t, found.p, found.difference.low) == (None, None, None)
        return
    oracle = stats.ttest_rel([x for x, _ in pairs], [y for _, y in pairs])
    interval = oracle.confidence_interval(0.95)
    assert found.t == pytest.approx(oracle.statistic, rel=1e-6, abs=1e-9)
    assert found.p == pytest.approx(oracle.pvalue, rel=1e-6)
    assert (found.difference.low, found.difference.high) == pytest.approx((interval.low, interval.high), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-20, 20).map(lambda count: count / 1000), min_size=2, max_size=8))
def test_the_sign_flip_test_counts_all_patterns(differences: list[float]) -> None:
    counts = [round(1000 * d) for d in differences]
    sums = [abs(sum(s * c for s, c in zip(signs, counts, strict=True))) for signs in _patterns(len(counts))]
    expected = sum(value >= abs(sum(counts)) for value in sums) / len(sums)
    assert sign_flip_p(differences) == expected


def _patterns(n: int) -> list[tuple[int, ...]]:
    return list(itertools.product((1, -1), repeat=n))


def test_the_sign_flip_test_is_scipys_permutation_test() -> None:
    differences = [AMP[seed] - SGD[seed] for seed in SGD]
    oracle = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(differences) == pytest.approx(oracle.pvalue)


def test_the_sign_flip_test_draws_where_there_are_too_many_patterns() -> None:
    few = np.random.default_rng(3).normal(0.4, 1.0, EXACT_UP_TO)
    many = [*few, 0.0]  # a zero changes neither the sum nor the share
    assert sign_flip_p(many) == pytest.approx(sign_flip_p(few.tolist()), abs=0.005)
    assert sign_flip_p(many) == sign_flip_p(many)
    assert sign_flip_p([1.0] * 30) > 0


def test_the_smallest_p_of_five_pairs() -> None:
    found = compare_paired(AMP, SGD)
    assert found.p_permutation == found.smallest_permutation_p == 0.0625


def test_only_seeds_of_both_are_compared() -> None:
    found = compare_paired({0: 0.9, 1: 0.8, 7: 0.1}, {1: 0.7, 0: 0.6, 8: 0.2})
    assert found.seeds == (0, 1)
    assert found.differences == (0.3, 0.1)


def test_no_seed_in_common_is_an_error() -> None:
    with pytest.raises(InputError, match="same seeds"):
        compare_paired({0: 0.9}, {1: 0.9})


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_counts_what_has_no_test_and_what_is_missing() -> None:
    tested, untested = compare_paired(AMP, SGD), compare_paired({0: 0.9}, {0: 0.8})
    first, second, third = adjust([tested, untested, tested], missing=2)
    assert first.family == third.family == 5
    assert first.p_adjusted == pytest.approx(5 * tested.p)
    assert second == untested


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(-40, 60).map(lambda n: n / 10_000), min_size=4, max_size=4), min_size=2, max_size=5)
)
def test_no_verdict_goes_when_what_is_missing_comes(differences: list[list[float]]) -> None:
    zero = dict.fromkeys(range(4), 0.0)
    whole = [compare_paired(dict(enumerate(values)), zero) for values in differences]
    final = adjust(whole)
    for made in range(len(whole)):
        for before, after in zip(adjust(whole[:made], missing=len(whole) - made), final, strict=False):
            assert before.verdict in ("open", after.verdict)


def test_a_difference_in_words() -> None:
    found = compare_paired(AMP, SGD)
    assert sentence(found, "AMP", "SGD") == (
        "AMP is better than SGD by 0.83 points (95 % interval 0.62 to 1.04, 5 seeds, p < 0.001, paired t-test)."
    )
    assert sentence(compare_paired(SGD, AMP), "SGD", "AMP") == (
        "SGD is worse than AMP by 0.83 points (95 % interval 0.62 to 1.04, 5 seeds, p < 0.001, paired t-test)."
    )


def test_no_difference_in_words() -> None:
    found = compare_paired({0: 0.90, 1: 0.92, 2: 0.91}, {0: 0.91, 1: 0.91, 2: 0.90})
    text = sentence(found, "amp", "sgd")
    assert text.startswith(
        "No difference shown between amp and sgd: amp − sgd is 0.33 points (95 % interval −2.54 to 3.20"
    )


def test_one_seed_in_words() -> None:
    found = compare_paired({3: 0.95}, {3: 0.94})
    assert (found.p, found.p_permutation, found.verdict) == (None, None, "open")
    assert sentence(found, "amp", "sgd") == (
        "amp is 1.00 points above sgd with one seed: no statement about chance below 3 seeds."
    )


def test_the_same_difference_in_all_seeds_is_no_proof() -> None:
    found = compare_paired({0: 0.95, 1: 0.85, 2: 0.75}, {0: 0.94, 1: 0.84, 2: 0.74})
    assert (found.t, found.p, found.difference.sd, found.verdict) == (None, None, 0.0, "open")
    assert found.p_permutation == 0.25
    assert "in each of 3 seeds" in sentence(found, "amp", "sgd")
    assert sentence(compare_paired(SGD, SGD), "amp", "sgd").startswith("amp and sgd are equal in each of 5 seeds")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(fractions, fractions), min_size=3, max_size=6))
def test_the_verdict_is_the_intervals(pairs: list[tuple[float, float]]) -> None:
    a, b = ({seed: pair[side] for seed, pair in enumerate(pairs)} for side in (0, 1))
    found = compare_paired(a, b)
    low, high = found.difference.low, found.difference.high
    excludes_zero = low is not None and high is not None and (low > 0 or high < 0)
    assert (found.verdict != "open") == excludes_zero


def test_holms_p_decides_where_there_are_several() -> None:
    a = {0: 0.905, 1: 0.912, 2: 0.903, 3: 0.909}
    b = {0: 0.902, 1: 0.904, 2: 0.900, 3: 0.905}
    alone = compare_paired(a, b)
    assert alone.verdict == "higher"
    corrected = adjust([alone] * 4)[0]
    assert corrected.verdict == "open"
    assert "98.75 % interval" in sentence(corrected, "a", "b")
    assert "both by Holm's procedure for 4 comparisons" in sentence(corrected, "a", "b")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(-40, 60).map(lambda n: n / 10_000), min_size=4, max_size=4), min_size=2, max_size=5)
)
def test_verdict_interval_and_p_agree_after_the_correction(differences: list[list[float]]) -> None:
    """Each interval leaves zero out exactly where Holm rejects, and has the level of its step by scipy."""
    zero = dict.fromkeys(range(4), 0.0)
    corrected = adjust([compare_paired(dict(enumerate(values)), zero) for values in differences])
    for comparison in corrected:
        if comparison.p_adjusted is None:
            continue
        low, high = comparison.difference.low, comparison.difference.high
        assert low is not None
        assert high is not None
        assert (comparison.verdict != "open") == (low > 0 or high < 0)
        if abs(comparison.p_adjusted - 0.05) > 1e-9:
            assert (comparison.verdict != "open") == (comparison.p_adjusted < 0.05)
        expected = stats.t.interval(
            1 - comparison.alpha, 3, np.mean(comparison.differences), stats.sem(comparison.differences)
        )
        assert (low, high) == pytest.approx(expected)
        assert 0.05 / comparison.family <= comparison.alpha <= 0.05


def test_a_difference_that_only_single_intervals_show_is_open() -> None:
    alone = compare_paired({0: 0.004, 1: 0.001, 2: 0.005, 3: 0.0036}, dict.fromkeys(range(4), 0.0))
    assert 0.025 < alone.p < 0.05
    one, two = adjust([alone, alone])
    assert alone.difference.low > 0
    assert one.difference.low < 0 < one.difference.high
    assert (one.verdict, two.verdict) == ("open", "open")


def test_an_interval_that_just_leaves_zero_out_is_not_shown_to_begin_at_zero() -> None:
    found = compare_paired({0: 0.0102, 1: 0.0021, 2: 0.0061, 3: 0.0062}, dict.fromkeys(range(4), 0.0))
    shift = found.difference.low - 0.00003
    found = compare_paired({s: d - shift for s, d in enumerate(found.differences)}, dict.fromkeys(range(4), 0.0))
    assert found.verdict == "higher"
    assert "95 % interval 0.003 to" in sentence(found, "a", "b")


def test_two_seeds_are_no_verdict() -> None:
    found = compare_paired({0: 0.95, 1: 0.9501}, {0: 0.90, 1: 0.90})
    assert found.p < 0.05
    assert found.verdict == "open"
    assert sentence(found, "amp", "sgd") == (
        "amp is 5.00 points above sgd with 2 seeds: no statement about chance below 3 seeds."
    )


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10), (1.5, 6), (-0.5, 34)])
def test_seeds_needed_are_those_of_the_published_tables(effect: float, n: int) -> None:
    """What G*Power 3.1 and statsmodels' TTestPower give for a two-sided paired t-test, alpha 0.05, power 0.8."""
    assert seeds_needed(effect) == n


def test_power_is_that_of_the_definition() -> None:
    """Integrated over the spread that a sample shows: normal mean, chi-distributed standard deviation."""
    for effect, n, alpha in ((0.9, 5, 0.05), (2.0, 3, 0.05), (1.4, 8, 0.0125)):
        critical = stats.t.ppf(1 - alpha / 2, n - 1)

        def rejects(s: float, effect: float = effect, n: int = n, critical: float = critical) -> float:
            reach, shift = critical * s, effect * np.sqrt(n)
            density = stats.chi.pdf(s * np.sqrt(n - 1), n - 1) * np.sqrt(n - 1)
            return float(density * (stats.norm.sf(reach - shift) + stats.norm.cdf(-reach - shift)))

        assert power(effect, n, alpha) == pytest.approx(integrate.quad(rejects, 0, 8)[0], abs=1e-6)


@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_power_rises_to_one_with_seeds_and_with_the_effect(alpha: float) -> None:
    effects, seeds = np.geomspace(0.1, 50, 24), np.arange(2, 200)
    rows = np.array([power(effect, seeds, alpha) for effect in effects])
    assert np.isfinite(rows).all()
    assert (np.diff(rows, axis=0) > -1e-9).all()
    assert (np.diff(rows, axis=1) > -1e-9).all()
    assert rows[-1, -1] == pytest.approx(1)
    random = np.random.default_rng(0)  # where scipy.special.nctdtr is not a number
    t = [stats.ttest_1samp(random.normal(3.873, 1, 5), 0).pvalue < 0.05 / 6 for _ in range(4000)]
    assert power(3.873, 5, 0.05 / 6) == pytest.approx(np.mean(t), abs=0.01)


def test_seeds_needed_has_limits() -> None:
    assert seeds_needed(100.0) == 3
    assert seeds_needed(0.01) is None
    assert compare_paired(SGD, SGD).seeds_needed is None
    small = compare_paired({0: 0.90, 1: 0.92, 2: 0.91}, {0: 0.91, 1: 0.91, 2: 0.90})
    assert small.seeds_needed == seeds_needed(small.difference.mean / small.difference.sd)
    assert f"it takes about {small.seeds_needed} seeds" in sentence(small, "amp", "sgd")


def test_six_seeds_are_the_fewest_for_the_sign_flip_test() -> None:
    def smallest(n: int) -> float:
        return sign_flip_p([0.01] * n)

    assert smallest(FEWEST_FOR_SIGN_FLIPS) < 0.05 <= smallest(FEWEST_FOR_SIGN_FLIPS - 1)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 2000), st.floats(0, 1))
def test_the_binomial_interval_is_scipys(count: int, share: float) -> None:
    right = round(share * count)
    oracle = stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert wilson(right / count, count) == pytest.approx((oracle.low, oracle.high), abs=1e-9)


def test_numbers_in_words() -> None:
    assert [points(0.008), points(-0.008), points(0.008, sign=True), points(-1e-9)] == [
        "0.80",
        "−0.80",
        "+0.80",
        "0.00",
    ]
    assert [p_text(0.0004), p_text(0.0123), p_text(0.0497), p_text(0.04999)] == [
        "< 0.001",
        "= 0.012",
        "= 0.04970",
        "= 0.04999",
    ]


def test_seeds_needed_are_those_of_the_corrected_level():
    ours, theirs = {0: 0.905, 1: 0.912, 2: 0.903, 3: 0.909}, {0: 0.902, 1: 0.904, 2: 0.900, 3: 0.905}
    alone = compare_paired(ours, theirs)
    differences = np.array([ours[seed] - theirs[seed] for seed in ours])
    effect = differences.mean() / differences.std(ddof=1)

    def least(alpha: float) -> int:
        def power(n: int) -> float:
            t, shift = stats.t.ppf(1 - alpha / 2, n - 1), effect * n**0.5
            return stats.nct.sf(t, n - 1, shift) + stats.nct.cdf(-t, n - 1, shift)

        return next(n for n in range(3, 99) if power(n) >= 0.8)

    assert (alone.seeds_needed, adjust([alone] * 4)[0].seeds_needed) == (least(0.05), least(0.0125))
    assert least(0.05) < least(0.0125)
