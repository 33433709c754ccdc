"""Several runs of a study at a time: the same bits, one view, and what happens when a process ends.

What a signal does is in `failures/test_signals.py`.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from said import Said
from tiny import tiny

from flatnext.errors import InputError
from flatnext.progress import Display
from flatnext.runs.folder import RunFolder
from flatnext.runs.reading import read_environment, read_plan
from flatnext.study import pool
from flatnext.study.division import Division, Sample, candidates, fastest
from flatnext.study.plan import make_plan
from flatnext.study.pool import Pool
from flatnext.study.runner import run_study

PAIR = [tiny("quick", epochs=1), tiny("quick-amp", epochs=1)]


def weights(study: Path) -> dict[str, dict[str, object]]:
    files = sorted(study.glob("*/*/last.safetensors"))
    return {f"{file.parent.relative_to(study)}": load_file(file) for file in files}


def test_two_at_a_time_end_in_the_bits_of_one_at_a_time(tmp_path: Path) -> None:
    said = Said(speaks=True)
    assert run_study(make_plan(PAIR, 2), tmp_path / "two", jobs=2, threads=1, display=said) == []
    assert run_study(make_plan(PAIR, 2), tmp_path / "one", jobs=1, threads=1) == []
    ours, theirs = weights(tmp_path / "two"), weights(tmp_path / "one")
    assert len(ours) == 4
    assert ours.keys() == theirs.keys()
    for name, tensors in theirs.items():
        assert all((ours[name][key] == value).all() for key, value in tensors.items())
    assert sum("of 4: quick" in line for line in said.lines) == 4
    assert any(line.startswith("quick-amp seed 1: epoch 1, ") for line in said.lines)
    plan = read_plan(tmp_path / "two" / "study.json")
    assert (plan.jobs, plan.threads) == (2, 1)
    assert run_study(make_plan(PAIR, 3), tmp_path / "two", jobs=1) == []  # with the threads that it began with
    for name in ("quick", "quick-amp"):
        threads = [read_environment(tmp_path / f"two/{name}/seed-{seed}/environment.json").threads for seed in range(3)]
        assert threads == [1, 1, 1]


def test_a_run_that_fails_and_a_process_that_is_killed_do_not_keep_the_others_from_running(tmp_path: Path) -> None:
    class Killing(Said):
        """Kills the process of the third run when it begins to train."""

        def say(self, text: str) -> None:
            super().say(text)
            if "killed seed 0: not as" in text or text.startswith("killed seed 0: epoch"):
                for worker in pool_of.workers:
                    if worker.assignment and worker.assignment.config.recipe == "killed":
                        worker.process.kill()

    def keep(self: Pool, *arguments: object) -> None:
        nonlocal pool_of
        pool_of = self
        begin(self, *arguments)

    pool_of, begin = None, Pool.__init__
    killed = tiny("quick", epochs=60).override({})
    object.__setattr__(killed, "recipe", "killed")
    configs = [tiny("quick-amp", epochs=1, learning_rate=1e30), killed, tiny("quick", epochs=1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pool, "__init__", keep)
        failures = run_study(make_plan(configs, 1), tmp_path, jobs=2, threads=1, display=Killing(speaks=True))
    assert len(failures) == 2
    assert "quick-amp/seed-0: the loss is not finite" in failures[0] + failures[1]
    assert "killed/seed-0: its process was ended by signal 9" in failures[0] + failures[1]
    assert RunFolder(tmp_path / "quick" / "seed-0").finished()


def test_a_run_that_another_process_has_is_left_to_it(tmp_path: Path) -> None:
    folder, said = tmp_path / "quick" / "seed-0", Said(speaks=True)
    folder.mkdir(parents=True)
    with RunFolder(folder).locked():
        assert run_study(make_plan(PAIR, 1), tmp_path, display=said) == []
    assert any("run 1 of 2: quick, seed 0: left to " in line for line in said.lines)
    assert not RunFolder(folder).finished()
    assert RunFolder(tmp_path / "quick-amp" / "seed-0").finished()


def test_auto_measures_once_and_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    said = Said(speaks=True)
    assert run_study(make_plan(PAIR, 1), tmp_path, jobs="auto", display=said) == []
    assert sum("images a second of all runs together, 1 at a time with 2 threads" in line for line in said.lines) == 1
    content = json.loads((tmp_path / "study.json").read_text())
    assert (content["jobs"], content["threads"]) in ((1, 2), (2, 1))


def test_a_study_from_a_larger_machine_does_not_ask_for_more_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(pool, "Pool", lambda jobs, display: made.append(jobs))
    monkeypatch.setattr(pool, "cores", lambda: 4)
    monkeypatch.setattr(pool, "gpus", lambda device: 0)
    samples = (Sample(config=PAIR[0], data_dir=".data", device="cpu", threads=1),)
    kept = Division(jobs=64, threads=2)
    assert pool.open_pool("auto", 2, kept, samples, Display(), 10)[1] == Division(jobs=2, threads=2)
    assert pool.open_pool(3, 2, kept, samples, Display(), 10)[1] == Division(jobs=3, threads=2)
    assert made == [2, 3]


def test_divisions() -> None:
    assert [(d.jobs, d.threads) for d in candidates(8, 100)] == [(1, 8), (2, 4), (4, 2), (8, 1)]
    assert [(d.jobs, d.threads) for d in candidates(6, 3)] == [(1, 6), (2, 3)]
    one, two = Division(jobs=1, threads=2), Division(jobs=2, threads=1)
    assert fastest([(one, 10.0), (two, 12.0)]) is two
    with pytest.raises(InputError, match="jobs is 0"):
        Division(jobs=0)


def test_no_more_runs_at_a_time_than_the_memory_is_enough_for(monkeypatch: pytest.MonkeyPatch) -> None:
    stubs = {
        "Pool": lambda jobs, display: None,
        "cores": lambda: 8,
        "gpus": lambda device: 0,
        "fitting": lambda sample: 2,
    }
    for name, stub in stubs.items():
        monkeypatch.setattr(pool, name, stub)
    samples = (Sample(config=PAIR[0], data_dir=".data", device="cpu", threads=1),)
    with pytest.raises(InputError, match="enough for 2 at a time: give --jobs 2, or auto"):
        pool.open_pool(3, 1, None, samples, Display(), 10)
    assert pool.open_pool("auto", 1, None, samples, Display(), 10)[1].jobs == 2
    monkeypatch.setattr(pool, "fitting", lambda sample: 6 if sample.config == PAIR[0] else 3)
    samples = (*samples, replace(samples[0], config=PAIR[1]))
    assert pool.open_pool("auto", 1, None, samples, Display(), 10)[1].jobs == 3  # the larger one decides
