"""Reading run folders into the study's table."""

import copy
import functools
import json
import math
import operator
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_study import CLASSES, write_json, write_run, write_study

from flatnext.config import Amp, recipe
from flatnext.errors import InputError
from flatnext.report import drawing
from flatnext.report.content import content as report
from flatnext.study.advice import advice, comparisons
from flatnext.study.failures import warnings
from flatnext.study.reading import read_study


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_study(tmp_path / "study", seeds=(0, 1, 2), epochs=3)


def test_a_part_of_a_sequential_study_is_sequential(folder: Path) -> None:
    plan = json.loads((folder / "study.json").read_text())
    assert not read_study([folder / "sgd", folder / "amp"]).sequential
    write_json(folder / "study.json", plan | {"max_seeds": 7})
    assert read_study([folder / "sgd", folder / "amp"]).sequential


def test_a_study_is_its_runs(folder: Path) -> None:
    study = read_study([folder])
    assert study.commands == ("flatnext study --recipes sgd amp --seeds 3",)
    assert [group.label for group in study.groups] == ["sgd", "amp"]
    assert study.left_out == ()
    sgd = study.groups[0]
    written = json.loads((folder / "sgd/seed-2/result.json").read_text())
    assert study.accuracy.values("sgd")[2] == written["last"]["test"]["accuracy"]
    assert study.select("accuracy.best", split="test")[0].values("sgd").keys() == {0, 1, 2}
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
    assert [(run.name, run.reason) for run in study.left_out] == [("amp/seed-1", "not started, or deleted")]


def test_unfinished_and_failed_runs_are_listed(folder: Path) -> None:
    write_run(folder / "sgd/seed-3", replace(recipe("sgd"), seed=3), epochs=4, finished=False)
    write_run(folder / "sgd/seed-4", replace(recipe("sgd"), seed=4), epochs=4, finished=False, error="loss is nan")
    study = read_study([folder])
    assert [run.config.seed for run in study.groups[0].runs] == [0, 1, 2]
    assert {run.name: run.reason for run in study.left_out} == {
        "sgd/seed-3": "unfinished: 2 of 4 epochs",
        "sgd/seed-4": "failed after 2 of 4 epochs: loss is nan",
    }


def test_a_run_that_only_has_its_config_was_not_started(folder: Path) -> None:
    shutil.rmtree(folder / "amp/seed-1")
    write_json(folder / "amp/seed-1/config.json", replace(recipe("amp"), seed=1).to_json())
    study = read_study([folder])
    assert [(run.name, run.reason) for run in study.left_out] == [("amp/seed-1", "not started, or deleted")]


def test_a_study_of_which_nothing_was_started(tmp_path: Path) -> None:
    write_json(tmp_path / "study.json", {"recipes": ["sgd"], "seeds": [0]})
    write_json(tmp_path / "sgd/seed-0/config.json", recipe("sgd").to_json())
    study = read_study([tmp_path])
    assert study.groups == ()
    assert [run.name for run in study.left_out] == ["sgd/seed-0"]
    assert study.baseline is None
    assert advice(study) == "No run has finished: there is nothing to compare yet."


def test_a_config_of_another_program_is_no_run(folder: Path) -> None:
    write_json(folder / "node_modules/x/config.json", {"port": 80})
    write_json(folder / "node_modules/config.json", [])
    study = read_study([folder])
    assert len(study.runs) == 6
    assert study.left_out == ()
    with pytest.raises(InputError, match="holds no run"):
        read_study([folder / "node_modules"])


def test_a_study_given_twice_counts_once(folder: Path) -> None:
    shutil.rmtree(folder / "amp/seed-1")
    study = read_study([folder, folder / "amp", folder])
    assert len(study.runs) == 5
    assert len(study.left_out) == 1


def test_commands_are_of_the_sessions_in_order(folder: Path) -> None:
    file = folder / "sgd/seed-0/environment.json"
    content = json.loads(file.read_text())
    first = content["sessions"][0]
    later = {**first, "command": "later", "started": "2026-12-01T00:00:00+00:00"}
    before = {**first, "command": "before", "started": "2026-01-01T00:00:00+00:00"}
    write_json(file, content | {"sessions": [before, first, later, later | {"command": ""}]})
    write_json(folder / "study.json", {"command": "never ran", "recipes": ["sgd", "amp"], "seeds": [0, 1, 2]})
    assert read_study([folder]).commands == ("before", first["command"], "later")


def test_sessions_without_facts_of_their_own_have_the_runs(folder: Path) -> None:
    file = folder / "sgd/seed-0/environment.json"
    content = json.loads(file.read_text())
    (full,) = content["sessions"]
    bare = {key: full[key] for key in ("command", "started", "from_step")}
    del content["processes"]
    write_json(file, content | {"threads": 16, "sessions": [bare, bare | {"torch": "2.9.0", "processes": 3}]})
    sessions = read_study([folder]).groups[0].runs[0].environment.sessions
    assert [(s.device_name, s.threads, s.torch, s.processes) for s in sessions] == [
        ("AMD EPYC", 16, "2.13.0+cpu", 1),
        ("AMD EPYC", 16, "2.9.0", 3),
    ]


def test_a_loss_that_was_not_finite_is_none(folder: Path) -> None:
    file = folder / "sgd/seed-0/result.json"
    content = json.loads(file.read_text())
    content["last"]["test"]["loss"] = None
    write_json(file, content)
    study = read_study([folder])
    (loss,) = study.select("loss", split="test")
    assert loss.problem("sgd") == "not finite in sgd, seed 0"
    assert loss.estimate("sgd") is None
    assert study.accuracy.values("sgd")[0] == content["last"]["test"]["accuracy"]


def test_runs_are_found_without_a_plan(folder: Path) -> None:
    (folder / "study.json").unlink()
    whole = read_study([folder])
    parts = read_study([folder / "amp", folder / "sgd", folder])
    assert [group.label for group in whole.groups] == [group.label for group in parts.groups] == ["sgd", "amp"]
    assert comparisons(whole) == comparisons(parts)
    single = read_study([folder / "amp" / "seed-0"])
    assert [run.name for group in single.groups for run in group.runs] == ["seed-0"]
    assert "nothing to compare" in advice(single)


def test_the_plan_gives_the_order_and_sgd_is_the_baseline(tmp_path: Path) -> None:
    study = read_study([write_study(tmp_path, recipes=("report-amp", "amp", "sgd"), seeds=(0, 1), epochs=2)])
    assert [group.label for group in study.groups] == ["report-amp", "amp", "sgd"]
    assert study.baseline is study.groups[2]
    assert [contrast.group.label for contrast in study.contrasts] == ["report-amp", "amp"]
    assert [contrast.comparison.family for contrast in study.contrasts if contrast.comparison] == [2, 2]


def test_groups_that_share_a_name_are_told_apart_by_their_settings(folder: Path) -> None:
    for seed in (0, 1):
        config = replace(recipe("amp"), method=Amp(epsilon=0.25, inner_lr=0.5), seed=seed)
        write_run(folder / f"other/seed-{seed}", config, epochs=3)
        write_run(folder / f"plain/seed-{seed}", replace(recipe("sgd"), recipe="amp", seed=seed), epochs=3)
    labels = {group.label for group in read_study([folder]).groups}
    assert labels == {"sgd", "amp (epsilon=0.3)", "amp (epsilon=0.25)", "amp+sgd"}


def test_a_group_is_labelled_with_what_is_not_its_recipes_but_for_what_all_share(folder: Path) -> None:
    for file in folder.rglob("environment.json"):
        changed = {"epochs": 3, "blocks": [1, 1]} | ({"epsilon": 0.1} if file.parts[-3] == "amp" else {})
        write_json(file, json.loads(file.read_text()) | {"not_of_recipe": changed})
    assert read_study([folder]).labels == ("sgd", "amp (epsilon=0.1)")
    assert read_study([folder / "amp"]).labels == ("amp (epochs=3, blocks=1,1, epsilon=0.1)",)
    write_run(folder / "mine/seed-0", replace(recipe("sam"), recipe="mine", seed=0), epochs=3)  # as from a file
    for file in folder.rglob("environment.json"):
        changed = {"cutout": recipe("sam").data.cutout, "batch_size": 7} if file.parts[-3] != "mine" else {}
        write_json(file, json.loads(file.read_text()) | {"not_of_recipe": changed})
    assert read_study([folder]).labels == ("sgd (batch_size=7)", "amp (batch_size=7)", "mine")


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


def test_the_same_run_twice_is_an_error(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder / "sgd/seed-0", tmp_path / "copy")
    with pytest.raises(InputError, match=r"sgd/seed-0 and copy are of the same config and seed"):
        read_study([folder, copy])


def test_what_lies_in_a_study_and_is_not_of_its_plan_is_no_run_of_it(folder: Path) -> None:
    """Such as one that `flatnext rerun` has made beside it."""
    before = read_study([folder])
    shutil.copytree(folder / "sgd/seed-0", folder / "sgd" / "seed-0-rerun")
    write_run(folder / "mine", replace(recipe("sgd"), seed=99))
    after = read_study([folder])
    assert after.groups == before.groups
    added = [run for run in after.left_out if run not in before.left_out]
    assert [(run.name, run.reason) for run in added] == [
        ("mine", "not of the study's plan"),
        ("sgd/seed-0-rerun", "not of the study's plan"),
    ]
    assert warnings(after) == warnings(before)


def test_runs_that_are_linked_from_elsewhere_count(folder: Path, tmp_path: Path) -> None:
    before = read_study([folder])
    shutil.move(folder / "sgd" / "seed-0", tmp_path / "disk")
    (folder / "sgd" / "seed-0").symlink_to(tmp_path / "disk", target_is_directory=True)
    (folder / "sgd" / "loop").symlink_to(folder, target_is_directory=True)
    assert [run.config for run in read_study([folder]).runs] == [run.config for run in before.runs]


def test_a_recipe_that_is_linked_from_elsewhere_is_of_its_study(tmp_path: Path) -> None:
    """Of two studies in a report, each keeps its own comparisons."""
    for name in ("a", "b"):
        write_study(tmp_path / name, ("sgd", "amp") if name == "a" else ("sam", "rmp"), seeds=(0, 1, 2), epochs=2)
    plan = json.loads((tmp_path / "a/study.json").read_text())
    write_json(tmp_path / "a/study.json", plan | {"contrasts": [["sgd", "amp"]], "max_seeds": 7})
    paths = [tmp_path / "a", tmp_path / "b"]
    before = read_study(paths)
    shutil.move(tmp_path / "a" / "amp", tmp_path / "disk")
    (tmp_path / "a" / "amp").symlink_to(tmp_path / "disk", target_is_directory=True)
    after = read_study(paths)
    assert [contrast.recipes for contrast in after.contrasts] == [contrast.recipes for contrast in before.contrasts]
    assert (after.missing, after.left_out) == (before.missing, before.left_out) == (0, ())
    assert read_study([tmp_path / "a/amp", tmp_path / "b"]).sequential


def test_runs_that_hold_out_images_for_calibration_have_other_training_images(tmp_path: Path) -> None:
    for name, calibration in (("sgd", 0), ("amp", 500)):
        config = recipe(name).override({"calibration": calibration})
        write_run(tmp_path / name, config, epochs=1, evidence=("flatness",))
        file = tmp_path / name / "environment.json"
        content = json.loads(file.read_text())
        images = {"counts": [4500 - calibration // 10] * 10, "sha256": name}
        same = {"counts": [1000] * 10, "sha256": "t"}
        data = {"classes": content["classes"], "train": images, "validation": None, "test": same}
        write_json(file, content | {"data": data})
    study = read_study([tmp_path])
    assert len(study.runs) == 2
    [trace] = study.select("hessian.trace")
    assert trace.problem() == "measured with different settings: calibration 0 or 500"


def test_recipes_whose_settings_differ_in_the_last_digit_are_told_apart(tmp_path: Path) -> None:
    for name, rate, accuracy in (("a", 0.0123412, 0.5), ("b", 0.0123413, 0.7)):
        for seed in range(3):
            config = recipe("sgd").override({"learning_rate": rate, "seed": seed})
            write_run(tmp_path / name / f"run-{seed}", config, epochs=2, accuracy=accuracy)
    study = read_study([tmp_path])
    assert study.labels == ("sgd (learning_rate=0.0123412)", "sgd (learning_rate=0.0123413)")
    means = [study.accuracy.estimate(label).mean for label in study.labels]
    assert means == pytest.approx([0.5, 0.7], abs=0.01)


def test_runs_on_changed_data_are_an_error(folder: Path) -> None:
    def images(sha256: str) -> dict[str, object]:
        return {"counts": [1] * 10, "sha256": sha256}

    for number, file in enumerate(sorted(folder.rglob("environment.json"))):
        content = json.loads(file.read_text())
        data = {"classes": content["classes"], "train": images("a"), "validation": None, "test": images("b")}
        write_json(file, content | {"data": data | ({"test": images("c")} if number == 1 else {})})
    with pytest.raises(InputError, match=r"different data .pixels or labels of the 10 test images are different"):
        read_study([folder])


def test_runs_on_different_images_are_an_error(folder: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "digits", recipe("quick"), classes="0123456789", test_images=360)
    with pytest.raises(InputError, match="different images"):
        read_study([folder, tmp_path / "digits"])


def test_a_folder_without_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is empty: give a study"):
        read_study([tmp_path])
    with pytest.raises(InputError, match="does not exist: give a study"):
        read_study([tmp_path / "missing"])


def test_no_seed_in_common_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a", replace(recipe("sgd"), seed=0))
    write_run(tmp_path / "b", replace(recipe("amp"), seed=1))
    study = read_study([tmp_path])
    assert study.contrasts[0].comparison is None
    assert comparisons(study) == ("amp and sgd have no seed in common: run both with the same seeds to compare them.",)


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
        ("environment.json", b"5"),
        ("environment.json", None),
        ("metrics.jsonl", b'{"epoch": 1}\n'),
        ("metrics.jsonl", b"torn\n{}\n"),
        ("metrics.jsonl", b"\xff\xfe\x00"),
        ("metrics.jsonl", b"5\n"),
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


PARTS = {
    "config.json": ("recipe", "seed", "epochs", "method"),
    "environment.json": ("classes", "sessions", "threads", "processes", "parameters", "precision"),
    "result.json": ("last", "best", "mistakes", "train_seconds"),
}


def places(content: object, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield where a value of a JSON content stands; of a list's, the first item's."""
    if place:
        yield place
    items = (
        content.items() if isinstance(content, dict) else enumerate(content[:1] if isinstance(content, list) else ())
    )
    for key, value in items:
        yield from places(value, (*place, key))


@pytest.mark.parametrize("name", list(PARTS))
def test_any_damage_is_an_error_that_names_the_file(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "render", lambda *_: "")
    root = write_study(tmp_path, seeds=(0, 1), epochs=2, classes=("cat", "dog"), test_images=20)
    file = root / "sgd/seed-0" / name
    good = json.loads(file.read_text())
    refused = []
    for *parents, key in (place for place in places(good) if place[0] in PARTS[name]):
        for value in (None, -1, 0, 10**400, math.nan, "é", [], {}, [None]):
            content = copy.deepcopy(good)
            functools.reduce(operator.getitem, parents, content)[key] = value
            write_json(file, content)
            try:
                report(read_study([root]))
            except InputError as error:
                refused.append(str(error))
    assert len(refused) > 40
    assert all(name in text or "same config" in text or "different images" in text for text in refused)
    assert not any("\n" in text for text in refused)


def test_values_that_cannot_be_are_refused(folder: Path) -> None:
    file = folder / "sgd/seed-0/result.json"
    good = json.loads(file.read_text())
    last, mistake = good["last"], good["mistakes"][0]
    matrix = last["test"]["confusion"]
    for changes in (
        {"mistakes": None},
        {"mistakes": {}},
        {"mistakes": [mistake | {"png": "é"}]},
        {"train_seconds": "long"},
        {"train_seconds": math.inf},
        {"train_seconds": 10**400},
        {"last": last | {"test": last["test"] | {"loss": math.nan}}},
        {"last": last | {"test": last["test"] | {"confusion": 5}}},
        {"last": last | {"test": last["test"] | {"confusion": matrix[1:]}}},
        {"last": last | {"test": last["test"] | {"confusion": [["1"] * 10] * 10}}},
        {"last": last | {"test": last["test"] | {"accuracy": True}}},
        {"mistakes": [mistake | {"png": "<script>"}]},
        {"mistakes": [mistake | {"label": 10}]},
    ):
        write_json(file, good | changes)
        with pytest.raises(InputError, match=r"result\.json"):
            read_study([folder])


def test_environments_that_cannot_be_are_refused(folder: Path) -> None:
    file = folder / "sgd/seed-0/environment.json"
    good = json.loads(file.read_text())
    for changes in ({"classes": 5}, {"classes": []}, {"classes": [1] * 10}, {"sessions": 5}, {"sessions": []}):
        write_json(file, good | changes)
        with pytest.raises(InputError, match=r"environment\.json"):
            read_study([folder])


@pytest.mark.parametrize(
    "content",
    [
        {"recipes": "sgd"},
        {"recipes": [5], "seeds": [0]},
        {"recipes": ["sgd"]},
        {"recipes": ["sgd"], "seeds": [0], "contrasts": [["amp", "sgd"]]},
        {"recipes": ["sgd", "amp"], "seeds": [0], "contrasts": [["amp"]]},
        {"recipes": ["sgd", "amp"], "seeds": [0], "contrasts": [["amp", "amp"]]},
        5,
    ],
)
def test_a_damaged_plan_is_named(folder: Path, content: object) -> None:
    write_json(folder / "study.json", content)
    with pytest.raises(InputError, match=r"study\.json"):
        read_study([folder])
