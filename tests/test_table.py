"""Reading run folders into the study's table."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fake_study import CLASSES, write_json, write_run, write_study
from flatnext.config import Amp
from flatnext.errors import InputError
from flatnext.recipes import recipe
from flatnext.study.table import read_study


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_study(tmp_path / "study", seeds=(0, 1, 2), epochs=3)


def test_a_study_is_its_runs(folder: Path) -> None:
    study = read_study([folder])
    assert study.commands == ("flatnext study --recipes sgd amp --seeds 3",)
    assert [group.label for group in study.groups] == ["sgd", "amp"]
    assert study.left_out == ()
    sgd = study.groups[0]
    written = json.loads((folder / "sgd/seed-2/result.json").read_text())
    assert sgd.accuracy()[2] == written["last"]["test"]["accuracy"]
    assert sgd.accuracy("best").keys() == {0, 1, 2}
    assert np.array_equal(sgd.checkpoints()[2].test.confusion, written["last"]["test"]["confusion"])
    assert sgd.runs[2].environment.classes == CLASSES
    assert [epoch.epoch for epoch in sgd.runs[2].epochs] == [1, 2, 3]
    assert sgd.runs[2].name == "sgd/seed-2"


def test_a_deleted_run_is_out_of_the_statistics(folder: Path) -> None:
    before = read_study([folder]).contrasts[0].comparison
    shutil.rmtree(folder / "amp" / "seed-1")
    study = read_study([folder])
    after = study.contrasts[0].comparison
    assert before is not None
    assert after is not None
    assert (before.seeds, after.seeds) == ((0, 1, 2), (0, 2))
    assert [(run.name, run.reason.split(":")[0]) for run in study.left_out] == [("amp/seed-1", "no run folder")]


def test_unfinished_and_failed_runs_are_listed(folder: Path) -> None:
    write_run(folder / "sgd/seed-3", replace(recipe("sgd"), seed=3), epochs=4, finished=False)
    write_run(folder / "sgd/seed-4", replace(recipe("sgd"), seed=4), epochs=4, finished=False, error="loss is nan")
    study = read_study([folder])
    assert [run.config.seed for run in study.groups[0].runs] == [0, 1, 2]
    assert {run.name: run.reason for run in study.left_out} == {
        "sgd/seed-3": "unfinished: 2 of 4 epochs",
        "sgd/seed-4": "failed after 2 of 4 epochs: loss is nan",
    }


def test_a_run_that_only_has_its_config_is_unfinished(tmp_path: Path) -> None:
    write_json(tmp_path / "run" / "config.json", recipe("sgd").to_json())
    study = read_study([tmp_path])
    assert study.groups == ()
    assert study.left_out[0].reason == "unfinished: 0 of 100 epochs"
    assert study.baseline is None
    assert study.verdict == ("No run has finished: there is nothing to compare yet.",)


def test_runs_are_found_without_a_plan(folder: Path) -> None:
    (folder / "study.json").unlink()
    whole = read_study([folder])
    parts = read_study([folder / "amp", folder / "sgd", folder])
    assert [group.label for group in whole.groups] == [group.label for group in parts.groups] == ["sgd", "amp"]
    assert whole.verdict == parts.verdict
    single = read_study([folder / "amp" / "seed-0"])
    assert [run.name for group in single.groups for run in group.runs] == ["seed-0"]
    assert "nothing to compare" in single.verdict[0]


def test_the_plan_gives_the_order_and_sgd_is_the_baseline(tmp_path: Path) -> None:
    study = read_study([write_study(tmp_path, recipes=("report-amp", "amp", "sgd"), seeds=(0, 1), epochs=2)])
    assert [group.label for group in study.groups] == ["report-amp", "amp", "sgd"]
    assert study.baseline is study.groups[2]
    assert [contrast.group.label for contrast in study.contrasts] == ["report-amp", "amp"]
    assert [contrast.comparison.family for contrast in study.contrasts if contrast.comparison] == [2, 2]


def test_groups_that_share_a_name_are_told_apart_by_their_settings(folder: Path) -> None:
    for seed in (0, 1):
        config = replace(recipe("amp"), method=Amp(epsilon=0.25), seed=seed)
        write_run(folder / f"other/seed-{seed}", config, epochs=3)
        write_run(folder / f"plain/seed-{seed}", replace(recipe("sgd"), recipe="amp", seed=seed), epochs=3)
    labels = {group.label for group in read_study([folder]).groups}
    assert labels == {"sgd", "amp (method=amp, epsilon=0.5)", "amp (method=amp, epsilon=0.25)", "amp (method=sgd)"}


def test_a_torn_last_line_is_left_out(folder: Path) -> None:
    metrics = folder / "sgd/seed-0/metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-20])
    assert [epoch.epoch for epoch in read_study([folder]).groups[0].runs[0].epochs] == [1, 2]


def test_an_epoch_that_was_run_again_counts_once(folder: Path) -> None:
    metrics = folder / "sgd/seed-0/metrics.jsonl"
    again = json.loads(metrics.read_text().splitlines()[1]) | {"train_loss": 123.0}
    metrics.write_text(metrics.read_text() + json.dumps(again) + "\n")
    losses = [epoch.train_loss for epoch in read_study([folder]).groups[0].runs[0].epochs]
    assert len(losses) == 3
    assert losses[1] == 123.0


def test_the_same_run_twice_is_an_error(folder: Path) -> None:
    shutil.copytree(folder / "sgd/seed-0", folder / "copy")
    with pytest.raises(InputError, match=r"copy and sgd/seed-0 are of the same config and seed"):
        read_study([folder])


def test_runs_on_different_images_are_an_error(folder: Path) -> None:
    write_run(folder / "digits", recipe("quick"), classes="0123456789", test_images=360)
    with pytest.raises(InputError, match="different images"):
        read_study([folder])


def test_a_folder_without_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no runs in it"):
        read_study([tmp_path])
    with pytest.raises(InputError, match="no such folder"):
        read_study([tmp_path / "missing"])


def test_no_seed_in_common_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a", replace(recipe("sgd"), seed=0))
    write_run(tmp_path / "b", replace(recipe("amp"), seed=1))
    study = read_study([tmp_path])
    assert study.contrasts[0].comparison is None
    assert study.verdict == ("amp and sgd have no seed in common: run both with the same seeds to compare them.",)


def change(file: Path, **changes: object) -> None:
    write_json(file, json.loads(file.read_text()) | changes)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("result.json", b'{"last": '),
        ("result.json", b"[]"),
        ("result.json", b'{"last": {"epoch": 1}}'),
        ("result.json", b"\xff\xfe"),
        ("config.json", b"{"),
        ("config.json", b'{"learning_rat": 1}'),
        ("environment.json", b"{}"),
        ("environment.json", None),
        ("metrics.jsonl", b'{"epoch": 1}\n'),
        ("metrics.jsonl", b"torn\n{}\n"),
    ],
)
def test_a_damaged_file_is_named(folder: Path, name: str, content: bytes | None) -> None:
    file = folder / "sgd/seed-0" / name
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_study([folder])
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_that_cannot_be_are_refused(folder: Path) -> None:
    file = folder / "sgd/seed-0/result.json"
    good = json.loads(file.read_text())
    last, mistake = good["last"], good["mistakes"][0]
    matrix = last["test"]["confusion"]
    for changes in (
        {"train_seconds": "long"},
        {"last": last | {"test": last["test"] | {"confusion": matrix[1:]}}},
        {"last": last | {"test": last["test"] | {"confusion": [["1"] * 10] * 10}}},
        {"last": last | {"test": last["test"] | {"accuracy": True}}},
        {"mistakes": [mistake | {"png": "<script>"}]},
        {"mistakes": [mistake | {"label": 10}]},
    ):
        write_json(file, good | changes)
        with pytest.raises(InputError, match=r"result\.json"):
            read_study([folder])


def test_a_damaged_plan_is_named(folder: Path) -> None:
    write_json(folder / "study.json", {"recipes": "sgd"})
    with pytest.raises(InputError, match=r"study\.json"):
        read_study([folder])
