"""Reading run folders: those of version 0.1.0, and which of them are finished or have stale evidence."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from places import RUNS_OF_0_1_0

from flatnext.errors import InputError
from flatnext.runs.folder import RunFolder, find_plans, find_runs
from flatnext.runs.reading import is_stale, read_epochs, read_evidence, read_plan, read_run
from flatnext.runs.records import RunRecord, StudyPlan, UnfinishedRun
from flatnext.schema import dump

STUDY = RUNS_OF_0_1_0 / "study"
FIGURES = json.loads((RUNS_OF_0_1_0 / "expected" / "figures.json").read_text())["figures"]
RUNS = {f"{recipe}/seed-{seed}": (recipe, str(seed)) for recipe in ("quick", "quick-amp") for seed in (0, 1)}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return shutil.copytree(STUDY, tmp_path / "study")


def record(folder: Path) -> RunRecord:
    run = read_run(folder, folder.name)
    assert isinstance(run, RunRecord)
    return run


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_0_1_0_has_the_figures_that_it_had(name: str) -> None:
    run, (recipe, seed) = record(STUDY / name), RUNS[name]
    values = {(figure["kind"], figure["at"]): figure["values"][recipe].get(seed) for figure in FIGURES}
    assert run.result.last.test.accuracy == values["accuracy", None]
    assert run.result.last.test.loss == values["loss", None]
    assert run.config.recipe == recipe
    assert not run.stale_evidence
    assert run.evidence is not None
    assert run.evidence.flatness is not None
    flatness = run.evidence.flatness.result
    assert {s.radius: s.increase for s in flatness.amp} == {
        at: values["sharpness.amp", at] for kind, at in values if kind == "sharpness.amp"
    }


@pytest.mark.parametrize("name", RUNS)
def test_what_is_read_of_0_1_0_is_written_again_as_it_was(name: str) -> None:
    """Every value that a schema knows goes back to the same JSON; what is new has a default."""

    def assert_within(old: object, new: object, at: str = "") -> None:
        if isinstance(old, dict):
            assert isinstance(new, dict)
            for key in old.keys() & new.keys():
                assert_within(old[key], new[key], f"{at}.{key}")
        elif isinstance(old, list):
            assert isinstance(new, list)
            assert len(old) == len(new), at
            for index, pair in enumerate(zip(old, new, strict=True)):
                assert_within(*pair, f"{at}[{index}]")
        else:
            assert new == old, at

    run = record(STUDY / name)
    for file, value in (("environment.json", run.environment), ("result.json", run.result)):
        content = json.loads((STUDY / name / file).read_text())
        assert content.keys() <= dump(value).keys()
        assert_within(content, dump(value))
    evidence = json.loads((STUDY / name / "evidence.json").read_text())
    assert_within(evidence["parts"], {key: value for key, value in dump(run.evidence).items() if value is not None})


def test_runs_and_plans_are_found_below_a_folder() -> None:
    names = [folder.relative_to(RUNS_OF_0_1_0).as_posix() for folder in find_runs(RUNS_OF_0_1_0)]
    assert names == ["half-finished", *(f"study/{name}" for name in RUNS)]
    assert [RunFolder(RUNS_OF_0_1_0 / name).finished() for name in names] == [False, *[True] * 4]
    assert find_runs(STUDY / "quick" / "seed-0") == [STUDY / "quick" / "seed-0"]
    (file,) = find_plans(RUNS_OF_0_1_0)
    plan = read_plan(file)
    assert isinstance(plan, StudyPlan)
    assert (plan.recipes, plan.seeds) == (("quick", "quick-amp"), (0, 1))


def test_a_run_that_is_half_finished_says_how_far_it_is(study: Path) -> None:
    unfinished = read_run(RUNS_OF_0_1_0 / "half-finished", "h")
    assert isinstance(unfinished, UnfinishedRun)
    assert (unfinished.name, unfinished.reason, unfinished.failed) == ("h", "unfinished: 1 of 2 epochs", False)
    folder = study / "quick" / "seed-0"
    (folder / "result.json").unlink()
    (folder / "failure.json").write_text('{"error": "the loss is not finite"}')
    failed = read_run(folder, "f")
    assert isinstance(failed, UnfinishedRun)
    assert (failed.reason, failed.failed) == ("failed after 2 of 2 epochs: the loss is not finite", True)
    assert RunFolder(folder).failed()


def test_evidence_of_other_weights_is_stale(study: Path) -> None:
    folder = study / "quick" / "seed-0"
    evidence = read_evidence(folder / "evidence.json", tuple("0123456789"))
    assert evidence is not None
    assert not is_stale(folder, evidence)
    assert is_stale(folder, replace(evidence, sha256="0" * 64))
    weights = folder / "last.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert is_stale(folder, evidence)
    run = record(folder)
    assert (run.evidence, run.stale_evidence) == (None, True)
    weights.unlink()
    assert not is_stale(folder, evidence)


def test_a_config_that_was_edited_after_training_is_said(study: Path) -> None:
    file = study / "quick" / "seed-0" / "config.json"
    content = json.loads(file.read_text())
    content["batch_size"] += 1
    file.write_text(json.dumps(content))
    with pytest.raises(
        InputError, match=r"with batch_size = \d+, not \d+ as config.json has it: put config.json back$"
    ):
        record(file.parent)


@pytest.mark.parametrize("name", ["metrics.jsonl", "environment.json", "result.json"])
def test_a_pipe_in_a_run_folder_is_not_waited_for(study: Path, name: str) -> None:
    file = study / "quick" / "seed-0" / name
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(InputError, match=f"{name} is not a regular file"):
        read_run(file.parent, "run")


def test_the_metrics_of_an_epoch_that_was_repeated_are_the_last_ones(study: Path) -> None:
    file = study / "quick" / "seed-0" / "metrics.jsonl"
    first, second = file.read_text().splitlines()
    again = json.dumps(json.loads(first) | {"train_loss": 9.0})
    file.write_text("\n".join([first, second, again, second[:20]]))
    assert [(epoch.epoch, epoch.train_loss == 9.0) for epoch in read_epochs(file)] == [(1, True), (2, False)]
    file.write_text("\n".join([first[:20], second]))
    with pytest.raises(InputError, match="line 1 is not JSON"):
        read_epochs(file)


@pytest.mark.parametrize("name", ["config.json", "environment.json", "result.json", "evidence.json"])
@pytest.mark.parametrize("content", ["", "[]", '{"classes": 3, "parts": 3, "last": 3, "epochs": "x"}'])
def test_a_damaged_file_is_one_line_that_names_it(study: Path, name: str, content: str) -> None:
    file = study / "quick" / "seed-0" / name
    file.write_text(content)
    with pytest.raises(InputError) as caught:
        read_run(file.parent, "run")
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
