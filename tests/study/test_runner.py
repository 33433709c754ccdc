"""A study's plan, and what its runner does with runs that are finished, half-finished, failed or in the way."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import pytest
from said import Said
from tiny import AtStep, tiny

from flatnext.config import recipe
from flatnext.device import threads
from flatnext.errors import InputError
from flatnext.runs.reading import read_plan
from flatnext.study.plan import check_goes_on, make_plan, override_each
from flatnext.study.reading import read_study
from flatnext.study.runner import run_study
from flatnext.training import Stopped

PAIR = [tiny("quick", epochs=1), tiny("quick-amp", epochs=1)]


def results(output):
    return {str(path.parent.relative_to(output)): path.read_bytes() for path in output.glob("*/*/result.json")}


def test_seeds_come_first_so_that_pairs_are_complete(tmp_path):
    runs = make_plan(PAIR, 2, first_seed=3).runs(tmp_path)
    assert [(run.config.recipe, run.config.seed) for run in runs] == [
        ("quick", 3),
        ("quick-amp", 3),
        ("quick", 4),
        ("quick-amp", 4),
    ]
    assert runs[1].folder == tmp_path / "quick-amp" / "seed-3"
    assert all(run.config.data == runs[0].config.data for run in runs)


@pytest.mark.parametrize(("configs", "seeds", "match"), [([], 1, "recipe"), (PAIR, 0, "seeds"), (PAIR * 2, 1, "twice")])
def test_a_plan_without_sense_is_refused(configs, seeds, match):
    with pytest.raises(InputError, match=match):
        make_plan(configs, seeds)


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (recipe("sgd"), "dataset"),
        (tiny("quick-amp", split_seed=1), "split_seed"),
        (replace(PAIR[0], recipe="twin"), "the same but for the name"),
    ],
)
def test_recipes_that_cannot_be_compared_are_refused(other, match):
    with pytest.raises(InputError, match=match):
        make_plan([PAIR[0], other], 1)


def test_twins_are_refused_wherever_they_stand():
    with pytest.raises(InputError, match="quick-amp and twin are the same but for the name"):
        make_plan([*PAIR, replace(PAIR[1], recipe="twin")], 1)


def test_settings_of_a_method_go_to_its_recipes():
    plain, perturbed = override_each(PAIR, {"epsilon": 0.25, "epochs": 3})
    assert (plain.epochs, perturbed.epochs, perturbed.method.epsilon) == (3, 3, 0.25)
    assert override_each(PAIR, {"method": "amp", "epsilon": 0.25})[0].method.epsilon == 0.25
    with pytest.raises(InputError, match="'epsilon'"):
        override_each(PAIR[:1], {"epsilon": 0.25})


def test_finished_runs_are_skipped_and_half_finished_ones_go_on(tmp_path):
    plan, cut, whole = make_plan(PAIR, 2), tmp_path / "cut", tmp_path / "whole"
    stop = AtStep(6, lambda: os.kill(os.getpid(), signal.SIGINT))  # in the second of four runs of four steps
    with pytest.raises(Stopped, match="run 2 of 4: quick-amp, seed 0"):
        run_study(plan, cut, display=stop)
    first = results(cut)
    assert list(first) == ["quick/seed-0"]
    rest = AtStep(0, None)
    assert run_study(plan, cut, display=rest) == []
    assert rest.steps == 10
    assert results(cut)["quick/seed-0"] == first["quick/seed-0"]
    run_study(plan, whole)
    for name, content in results(whole).items():
        assert json.loads(content)["last"] == json.loads(results(cut)[name])["last"]
    said = Said()
    run_study(plan, cut, display=said)
    assert [line.endswith("finished before") for line in said.lines] == [True] * 4


def test_a_run_that_fails_does_not_keep_the_others_from_running(tmp_path):
    bad = tiny("quick-amp", epochs=1, learning_rate=1e30)
    failures = run_study(make_plan([bad, PAIR[0]], 1), tmp_path)
    assert len(failures) == 1
    assert "quick-amp/seed-0: the loss is not finite" in failures[0]
    assert list(results(tmp_path)) == ["quick/seed-0"]


def test_other_settings_are_seen_before_anything_runs(tmp_path):
    run_study(make_plan(PAIR, 1), tmp_path)
    before = results(tmp_path)
    changed = [PAIR[0], PAIR[1].override({"epsilon": 0.1})]
    with pytest.raises(InputError, match=r"--epsilon 0\.05, not 0\.1"):
        run_study(make_plan(changed, 2), tmp_path)
    assert results(tmp_path) == before
    assert run_study(make_plan(changed, 1), tmp_path, overwrite=True) == []
    assert results(tmp_path)["quick-amp/seed-0"] != before["quick-amp/seed-0"]


@pytest.mark.parametrize("epsilon", [0.05, 0.1])
def test_an_overwritten_study_that_is_stopped_goes_on_without_overwrite(tmp_path, epsilon):
    run_study(make_plan(PAIR, 1), tmp_path)
    (tmp_path / "quick" / "seed-0" / "notes.txt").write_text("mine")
    plan = make_plan([PAIR[0], PAIR[1].override({"epsilon": epsilon})], 1)
    stop = AtStep(2, lambda: os.kill(os.getpid(), signal.SIGINT))  # in the first of two runs of four steps
    with pytest.raises(Stopped, match="the same command without --overwrite goes on"):
        run_study(plan, tmp_path, overwrite=True, display=stop)
    assert results(tmp_path) == {}
    rest = AtStep(0, None)
    assert run_study(plan, tmp_path, display=rest) == []
    assert rest.steps == 6
    assert len(results(tmp_path)) == 2
    assert (tmp_path / "quick" / "seed-0" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("wrong", [{"jobs": 0}, {"threads": 0}, {"threads": -1, "jobs": "auto"}])
def test_no_jobs_and_no_threads_are_refused(tmp_path, wrong):
    with pytest.raises(InputError, match="give at least 1"):
        run_study(make_plan(PAIR, 1), tmp_path / "study", **wrong)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_study_that_adds_seeds_stays_one(tmp_path, overwrite):
    plan = make_plan(PAIR, 1)
    replace(plan, max_seeds=7).write(tmp_path, "flatnext study --until-decided")
    names = {path.name for path in tmp_path.iterdir()}
    before = (tmp_path / "study.json").read_bytes()
    with pytest.raises(InputError, match="begun with --until-decided: give it again, or another --output"):
        run_study(plan, tmp_path, overwrite=overwrite)
    assert {path.name for path in tmp_path.iterdir()} == names
    assert (tmp_path / "study.json").read_bytes() == before
    check_goes_on(replace(plan, max_seeds=9), read_plan(tmp_path / "study.json"), tmp_path)


def test_bad_input_starts_nothing(tmp_path):
    with pytest.raises(InputError, match="train_images"):
        run_study(make_plan([tiny(train_images=10**6)], 1), tmp_path / "study")
    assert not list(tmp_path.iterdir())


def test_the_threads_that_torch_has_are_kept_as_well(tmp_path):
    for number in (2, 1):
        with threads(number):
            run_study(make_plan(PAIR[:1], 3 - number), tmp_path)
    runs = read_study([tmp_path]).runs
    assert [run.environment.threads for run in runs] == [2, 2]


def test_threads_that_were_given_are_kept_also_for_one_run_at_a_time(tmp_path):
    run_study(make_plan(PAIR[:1], 1), tmp_path, threads=1)
    assert read_plan(tmp_path / "study.json").threads == 1
    run_study(make_plan(PAIR[:1], 2), tmp_path)
    environments = [json.loads(file.read_text()) for file in tmp_path.glob("*/*/environment.json")]
    assert [environment["threads"] for environment in environments] == [1, 1]
