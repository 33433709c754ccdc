"""A run that is made longer ends as one that was planned so, where that is well defined."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from killing import Killed, kill_at_write
from same_run import assert_same_run, measured
from tiny import AtStep, tiny

from flatnext.errors import InputError
from flatnext.runs.folder import RunFolder
from flatnext.training import Stopped, train

CONSTANT = [
    tiny(schedule="constant"),
    tiny("quick-amp", schedule="steps", milestones=(1,), gamma=0.5, ema=0.9),
    tiny(schedule="constant", optimizer="adamw", learning_rate=0.002, method="momentum-amp", epsilon=0.05),
]
by_method = pytest.mark.parametrize("config", CONSTANT, ids=lambda c: c.method.name)
NEW = {"epochs": 3, "schedule": "cosine", "learning_rate": 0.01}


def go_on(folder, changes, **options):
    return train(RunFolder(folder).config(), folder, resume=True, changes=changes, **options)


@by_method
def test_a_rate_that_goes_on_gives_the_run_that_was_planned_longer(never_stopped, tmp_path, config):
    train(config, tmp_path / "run")
    go_on(tmp_path / "run", {"epochs": 3})
    whole = never_stopped(config.override({"epochs": 3}))
    assert_same_run(tmp_path / "run", whole)
    assert RunFolder(tmp_path / "run").config() == RunFolder(whole).config()
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert [session["changed"] for session in environment["sessions"]] == [{}, {"epochs": 3}]
    assert environment["not_of_recipe"]["epochs"] == 3


def test_an_unfinished_run_goes_on_too(never_stopped, tmp_path):
    config = CONSTANT[0]
    with pytest.raises(Stopped):
        train(config, tmp_path / "run", display=AtStep(3, lambda: os.kill(os.getpid(), 2)))
    go_on(tmp_path / "run", {"epochs": 3})
    assert_same_run(tmp_path / "run", never_stopped(config.override({"epochs": 3})))


@pytest.mark.parametrize("config", [CONSTANT[1], tiny("quick-amp", ema=0.9)], ids=["kept", "not kept"])
def test_killed_at_any_write_and_repeated_ends_the_same(tmp_path, config):
    train(config, tmp_path / "short")
    shutil.copytree(tmp_path / "short", tmp_path / "whole")
    go_on(tmp_path / "whole", NEW)
    for write in range(5):  # state, last, environment, config, metrics
        folder = tmp_path / f"run{write}"
        shutil.copytree(tmp_path / "short", folder)
        with pytest.MonkeyPatch.context() as patch:
            kill_at_write(patch, write)
            with pytest.raises(Killed):
                go_on(folder, NEW)
        go_on(folder, NEW)
        assert_same_run(folder, tmp_path / "whole")


def test_a_plain_resume_in_between_says_what_to_repeat(tmp_path):
    train(tiny(), tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        kill_at_write(patch, 3)
        with pytest.raises(Killed):
            go_on(tmp_path / "run", NEW)
    with pytest.raises(InputError, match=r"epochs = 3, not 2 as config.json has it.*repeat that command.*--epochs 3"):
        go_on(tmp_path / "run", {})


def test_a_schedule_that_falls_is_not_stretched(tmp_path):
    train(tiny(), tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("[!.]*.*")}
    with pytest.raises(InputError, match=r"run: its learning rate falls to zero along a cosine over its 2 epochs"):
        go_on(tmp_path / "run", {"epochs": 3})
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").glob("[!.]*.*")} == before
    result = go_on(tmp_path / "run", NEW)
    assert result.last.epoch == 3
    rates = [line["learning_rate"] for line in measured(tmp_path / "run")]
    assert 0 < rates[2] < 0.01
    assert not list((tmp_path / "run").glob("state-*.pt"))


def test_a_config_of_a_longer_run_is_not_that_of_a_new_one(tmp_path):
    train(tiny(), tmp_path / "run")
    go_on(tmp_path / "run", NEW)
    with pytest.raises(InputError, match="schedule_begins is 2, as in a run that was made longer"):
        train(RunFolder(tmp_path / "run").config(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_finished_run_whose_config_was_edited_is_said(tmp_path):
    train(tiny(), tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "label_smoothing": 0.1}))
    with pytest.raises(InputError, match=r"label_smoothing = 0.0, not 0.1 as config.json has it: put config.json back"):
        go_on(tmp_path / "run", {})


def test_a_pipe_for_a_state_is_not_waited_for(tmp_path):
    with pytest.raises(Stopped):
        train(tiny(), tmp_path / "run", display=AtStep(3, lambda: os.kill(os.getpid(), 2)))
    (state,) = (tmp_path / "run").glob("state-*.pt")
    state.unlink()
    os.mkfifo(state)
    with pytest.raises(InputError, match=r"state-000000003-.*start the run anew"):
        go_on(tmp_path / "run", {})
