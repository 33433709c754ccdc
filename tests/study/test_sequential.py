"""The sequential t-test: its numbers against an integral, and its error under repeated looks by simulation."""

from __future__ import annotations

import math
import shutil
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_study import write_run
from said import Said
from scipy import integrate, stats
from tiny import tiny

from flatnext.config import recipe
from flatnext.errors import InputError
from flatnext.runs.lock import lock
from flatnext.study import until_decided
from flatnext.study.plan import make_plan
from flatnext.study.reading import read_study
from flatnext.study.sequential import VARIANCE, anytime_p, critical_t, log_evidence
from flatnext.study.statistics import adjust, compare_paired, estimate, sentence


@pytest.mark.parametrize(("t", "n"), [(0.3, 3), (2.5, 3), (-4.0, 5), (6.0, 8), (1.0, 20)])
def test_evidence_is_the_ratio_of_the_densities_of_t(t: float, n: int) -> None:
    def weighted(delta: float) -> float:
        return stats.nct.pdf(t, n - 1, delta * math.sqrt(n)) * stats.norm.pdf(delta, scale=math.sqrt(VARIANCE))

    marginal, _ = integrate.quad(weighted, -8, 8, limit=200)
    assert math.exp(log_evidence(t, n)) == pytest.approx(marginal / stats.t.pdf(t, n - 1), rel=1e-4)


@pytest.mark.parametrize("n", [4, 6, 12, 20])
@pytest.mark.parametrize("alpha", [0.05, 0.025])
def test_the_critical_t_has_the_p_alpha(n: int, alpha: float) -> None:
    critical = critical_t(n, alpha)
    if critical == math.inf:
        assert anytime_p(1e6, n) > alpha
    else:
        assert anytime_p(critical, n) == pytest.approx(alpha)
        assert anytime_p(1.01 * critical, n) < alpha < anytime_p(0.99 * critical, n)


def looked_at(delta: float, studies: int = 4000, most: int = 20) -> tuple[float, float]:
    """Return the share of studies that decide at any look from 3 seeds on, and their mean number of seeds."""
    values = np.random.default_rng(0).normal(delta, 1.0, (studies, most))
    decided, seeds = np.zeros(studies, dtype=bool), np.full(studies, most)
    for n in range(3, most + 1):
        means, sds = values[:, :n].mean(axis=1), values[:, :n].std(axis=1, ddof=1)
        hits = (np.abs(means) > critical_t(n, 0.05) * sds / math.sqrt(n)) & ~decided
        seeds[hits] = n
        decided |= hits
    return float(decided.mean()), float(seeds.mean())


def test_five_per_cent_stay_five_per_cent_under_a_look_after_every_seed() -> None:
    errors, _ = looked_at(0.0)
    limit = 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)
    assert errors < limit
    # The ordinary t-test, looked at as often, errs more than four times as often as it says: docs/studies.md.
    values = np.random.default_rng(1).normal(0.0, 1.0, (20_000, 20))
    ordinary = np.zeros(20_000, dtype=bool)
    for n in range(3, 21):
        ordinary |= stats.ttest_1samp(values[:, :n], 0.0, axis=1).pvalue < 0.05
    assert 0.225 < ordinary.mean() < 0.235


def test_clear_differences_are_found_with_few_seeds() -> None:
    power, seeds = looked_at(2.0)
    assert power > 0.99
    assert seeds < 8


def test_p_and_interval_agree_and_are_wider_than_those_of_a_fixed_number(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    for size in (0.5, 1.0, 2.0):
        a = dict(enumerate(0.9 + 0.001 * random.normal(size, 1, 8)))
        b = dict.fromkeys(a, 0.9)
        (ours,) = adjust([compare_paired(a, b, sequential=True)])
        (fixed,) = adjust([compare_paired(a, b)])
        assert (ours.p_adjusted < 0.05) == (ours.verdict != "open")
        assert ours.difference.low < fixed.difference.low < fixed.difference.high < ours.difference.high
    assert "sequential t-test" in sentence(ours, "amp", "sgd")


def test_no_number_of_seeds_is_promised_by_another_test() -> None:
    values = {seed: 0.9 + 0.01 * (-1) ** seed + 0.001 * seed for seed in range(6)}
    (ours,) = adjust([compare_paired(values, dict.fromkeys(values, 0.9), sequential=True)])
    (fixed,) = adjust([compare_paired(values, dict.fromkeys(values, 0.9))])
    assert "it takes" in sentence(fixed, "amp", "sgd")
    assert "it takes" not in sentence(ours, "amp", "sgd")


def test_three_seeds_have_no_interval() -> None:
    few = compare_paired({0: 0.91, 1: 0.92, 2: 0.911}, dict.fromkeys(range(3), 0.9), sequential=True)
    assert (few.difference.low, few.verdict) == (None, "open")
    assert few.p is not None
    assert "too few for the sequential t-test to have an interval" in sentence(few, "amp", "sgd")
    assert estimate([0.1, 0.2, 0.4], sequential=True).high is None


def test_a_run_whose_folder_has_gone_is_held_by_nobody(tmp_path: Path) -> None:
    assert not until_decided._is_held(tmp_path / "gone")


@pytest.mark.parametrize(("gain", "seeds", "text"), [(0.03, 6, "decided with"), (0.0, 7, "not decided with 7 seeds")])
def test_seeds_are_added_until_it_is_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gain: float, seeds: int, text: str
) -> None:
    def made_up(plan, output: Path, **arguments: object) -> list[str]:
        for run in plan.runs(output):
            if not run.folder.exists():
                seed = run.config.seed
                value = 0.9 + 0.002 * (-1) ** seed + (gain + 0.002 * (seed % 3 - 1)) * (run.config.recipe == "amp")
                write_run(run.folder, run.config, epochs=2, accuracy=value)
        plan.write(output, "")
        return []

    monkeypatch.setattr(until_decided, "run_study", made_up)
    plan, said = make_plan([recipe("sgd"), recipe("amp")], 1), Said()
    plan = type(plan)(plan.configs, plan.seeds, max_seeds=7)
    assert until_decided.run_until_decided(plan, tmp_path, display=said) == []
    assert said.lines[-1].startswith(text)
    study = read_study([tmp_path])
    assert study.sequential
    (contrast,) = study.contrasts
    assert contrast.comparison.sequential
    assert contrast.comparison.n <= seeds
    alone, values = study.headline.estimate("amp"), study.headline.values("amp").values()
    assert alone.high == pytest.approx(estimate(values, sequential=True).high)
    assert alone.high > estimate(values).high
    assert (contrast.comparison.verdict != "open") == (gain > 0)
    again = Said()
    assert until_decided.run_until_decided(plan, tmp_path, display=again) == []
    assert again.lines == said.lines[-1:]  # it goes on with the seeds that there are


def test_runs_of_another_process_are_waited_for_and_recipes_of_another_command_are_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(2):
        write_run(tmp_path / f"sam/seed-{seed}", replace(recipe("sam"), seed=seed), epochs=2)
    with ExitStack() as elsewhere:

        def made_up(plan, output: Path, **arguments: object) -> list[str]:
            for run in plan.runs(output):
                seed = run.config.seed
                if not run.folder.exists() and (run.config.recipe, seed) == ("amp", 4):
                    run.folder.mkdir(parents=True)
                    elsewhere.enter_context(lock(run.folder))
                elif not run.folder.exists():
                    gain = 0.03 * (run.config.recipe == "amp") + 0.002 * (seed % 3 - 1) * (run.config.recipe == "sgd")
                    write_run(run.folder, run.config, epochs=2, accuracy=0.9 + gain)
            plan.write(output, "")
            return []

        def other_process_ends(seconds: float) -> None:
            elsewhere.close()
            shutil.rmtree(tmp_path / "amp/seed-4")
            write_run(tmp_path / "amp/seed-4", replace(recipe("amp"), seed=4), epochs=2, accuracy=0.93)

        monkeypatch.setattr(until_decided, "run_study", made_up)
        monkeypatch.setattr(time, "sleep", other_process_ends)
        plan, said = make_plan([recipe("sgd"), recipe("amp")], 5), Said()
        plan = type(plan)(plan.configs, plan.seeds, max_seeds=7)
        assert until_decided.run_until_decided(plan, tmp_path, display=said) == []
    first, *_, last = said.lines
    assert (first, last) == ("waiting for 1 run of another process", "decided with 6 seeds")
    assert [contrast.label for contrast in read_study([tmp_path]).contrasts] == ["amp − sgd", "sam − sgd"]


@pytest.mark.parametrize(("comparisons", "seeds"), [(1, 5), (2, 6), (6, 6), (7, 7), (8, 7)])
def test_the_fewest_seeds_that_can_decide(comparisons: int, seeds: int) -> None:
    """As docs/studies.md says: a difference that is as good as certain has a p below Holm's first level."""
    decide = [n for n in range(2, 20) if anytime_p(1e9, n) < 0.05 / comparisons]
    assert decide[0] == seeds
    assert until_decided.FEWEST == 5


@pytest.mark.parametrize(
    ("begin", "most", "match"),
    [(1, 4, "max_seeds is 4: give at least 5, as with fewer"), (8, 6, "below the 8 to begin with: give --seeds 6")],
)
def test_too_few_seeds_at_most_are_refused(tmp_path: Path, begin: int, most: int, match: str) -> None:
    plan = make_plan([tiny("quick"), tiny("quick-amp")], begin)
    with pytest.raises(InputError, match=match):
        until_decided.run_until_decided(type(plan)(plan.configs, plan.seeds, max_seeds=most), tmp_path)
