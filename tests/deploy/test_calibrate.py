"""Calibrating weights that have no calibration: what is written where, and what is refused."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from packed import one_line

import flatnext
from flatnext import cli
from flatnext.deploy.calibrate import _chosen, calibrate, format_calibrated
from flatnext.deploy.pack import pack
from flatnext.errors import InputError
from flatnext.evaluation import load_trained_model
from flatnext.evaluation.conformal import first_half
from flatnext.files import sha256
from flatnext.models import read_origin, read_weights


@pytest.fixture
def copy(run, tmp_path):
    """Return a copy of a finished run."""
    return shutil.copytree(run, tmp_path / "run")


def origin(path):
    return read_origin(read_weights(path)[1], path)


def test_a_run_is_calibrated_on_test_images_in_its_own_file(copy):
    before, _ = read_weights(copy / "last.safetensors")
    made = calibrate(copy, split="test", images=200)
    test = flatnext.load_data("digits").test
    assert made.path == copy / "last.safetensors"
    assert made.count == len(test) - 200
    assert origin(made.path).conformal == made.conformal
    after, _ = read_weights(made.path)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert made.conformal.images == int((~first_half(test)[_chosen(test, 200)]).sum())
    [ninety, *_] = made.checks
    assert ninety.coverage == 0.9
    sets = flatnext.load(copy).predict(test.images[~_chosen(test, 200)], coverage=0.9)
    labels = test.labels[~_chosen(test, 200)].tolist()
    classes = flatnext.load(copy).classes
    assert sum(classes[label] in each.set for label, each in zip(labels, sets, strict=True)) == ninety.held
    assert np.mean([len(each.set) for each in sets]) == pytest.approx(ninety.mean_size)
    assert f"{ninety.held / made.count:.2%} of {made.count:,} other images" in format_calibrated(made)


def test_all_images_and_another_file(copy, tmp_path):
    content = (copy / "best.safetensors").read_bytes()
    made = calibrate(copy, split="test", checkpoint="best", output=tmp_path / "new.safetensors")
    assert made.checks == ()
    assert (copy / "best.safetensors").read_bytes() == content
    assert flatnext.load(tmp_path / "new.safetensors").predict(np.zeros((8, 8), np.uint8), coverage=0.9)
    assert "--coverage 0.9" in format_calibrated(made)


def test_what_exists_is_kept(copy, tmp_path):
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(InputError, match=r"keep\.txt exists: give another name, or --overwrite"):
        calibrate(copy, split="test", output=tmp_path / "keep.txt")
    assert (tmp_path / "keep.txt").read_text() == "mine"
    command = ["calibrate", str(copy), "--split", "test", "--output", str(tmp_path / "keep.txt"), "--overwrite"]
    assert cli.main(command) == 0
    assert origin(tmp_path / "keep.txt").conformal


def test_the_folder_of_the_output_is_made(copy, tmp_path):
    assert calibrate(copy, split="test", output=tmp_path / "a" / "b" / "new.safetensors").path.is_file()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot make "):
        calibrate(copy, split="test", output=tmp_path / "file" / "new.safetensors")


def test_a_test_set_in_a_file(copy, tmp_path):
    test = flatnext.load_data("digits").test
    np.savez(tmp_path / "some.npz", images=test.images.permute(0, 2, 3, 1).numpy(), labels=test.labels.numpy())
    assert (
        calibrate(copy, test_set=tmp_path / "some.npz").conformal.scores
        == calibrate(copy, split="test").conformal.scores
    )


def test_evidence_of_the_weights_stays_theirs(copy):
    file = copy / "evidence.json"
    for digest, follows in ((sha256(copy / "last.safetensors"), True), ("of others", False)):
        file.write_text(json.dumps({"sha256": digest, "parts": {}}))
        calibrate(copy, split="test", images=150 if follows else 250)
        assert (json.loads(file.read_text())["sha256"] == sha256(copy / "last.safetensors")) == follows
        assert json.loads(file.read_text())["parts"] == {}


def test_a_disk_that_is_full_leaves_weights_and_evidence_as_they_were(copy, monkeypatch):
    weights, file = copy / "last.safetensors", copy / "evidence.json"
    file.write_text(json.dumps({"sha256": sha256(weights), "parts": {}}))
    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}

    def full(*_):
        raise InputError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("flatnext.deploy.calibrate.write_json", full)
        with pytest.raises(InputError, match="disk is full"):
            calibrate(copy, split="test", images=150)
    after = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    assert {name: content for name, content in after.items() if name != ".lock"} == {
        name: content for name, content in before.items() if name != ".lock"
    }
    calibrate(copy, split="test", images=150)
    assert json.loads(file.read_text())["sha256"] == sha256(weights)


def test_validation_images_that_the_starting_weights_may_know_calibrate_nothing(copy):
    file = copy / "environment.json"
    start = {"weights": "w", "sha256": "ab", "taken": "all", "may_know_held_out": True}
    file.write_text(json.dumps({**json.loads(file.read_text()), "started_from": start}))
    with pytest.raises(InputError, match="started from weights that may have been trained on these images"):
        calibrate(copy, split="validation")
    assert not load_trained_model(copy).has_validation_split
    assert calibrate(copy, split="test").conformal.images > 0


def test_a_folder_whose_name_is_not_utf8_is_named_by_escapes(copy, tmp_path):
    test = flatnext.load_data("digits").test
    path = tmp_path / os.fsdecode(b"caf\xe9.npz")
    np.savez(path, images=test.images.permute(0, 2, 3, 1).numpy(), labels=test.labels.numpy())
    assert "images of caf\\udce9; the others" in calibrate(copy, test_set=path).conformal.source


def test_packed_weights_have_the_calibration_of_their_run(run, packed):
    kept = origin(packed.files[0]).conformal
    assert kept == origin(run / "last.safetensors").conformal is not None
    assert f"{kept.images} scores: {kept.source}" in packed.files[1].read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "give one of them"),
        ({"split": "test", "test_set": "x"}, "give one of them"),
        ({"split": "validation", "checkpoint": "best"}, "have chosen the best checkpoint"),
        ({"split": "test", "images": 1}, "images is 1: there are"),
        ({"split": "test", "images": 10**6}, "images is 1000000"),
        ({"split": "train"}, "choose test or validation, which the model was not trained on"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(run, arguments, words):
    before = {path.name: path.read_bytes() for path in run.glob("*.safetensors")}
    with pytest.raises(InputError, match=words) as caught:
        calibrate(run, **arguments)
    assert one_line(caught)
    assert {path.name: path.read_bytes() for path in run.glob("*.safetensors")} == before


def test_the_best_epoch_is_known_by_any_name(run, tmp_path):
    shutil.copy(run / "best.safetensors", tmp_path / "mine.safetensors")
    packed = pack(run, "resnext11-digits-best", tmp_path / "packed", checkpoint="best").files[0]
    for path in (tmp_path / "mine.safetensors", packed):
        with pytest.raises(InputError, match="have chosen the best checkpoint"):
            calibrate(path, split="validation")
    assert calibrate(run, split="validation", output=tmp_path / "last.safetensors").path.is_file()


def test_weights_that_ship_need_another_file(folder):
    for path in ("resnext11-digits", *folder.glob("*.safetensors")):
        with pytest.raises(InputError, match="ships with the package, which is left as it is: give an --output"):
            calibrate(path, split="test")


def test_an_export_and_an_unfinished_run_are_refused(copy, tmp_path):
    (tmp_path / "model.onnx").touch()
    with pytest.raises(InputError, match="export them again"):
        calibrate(tmp_path / "model.onnx", split="test")
    (copy / "result.json").unlink()
    for path in (copy, copy / "last.safetensors"):
        with pytest.raises(InputError, match="run has not finished"):
            calibrate(path, split="test")


def test_the_command(copy, capsys):
    assert cli.main(["calibrate", str(copy), "--split", "test", "--images", "200"]) == 0
    assert "coverage 90%: the set holds the class of" in capsys.readouterr().out


def test_a_file_that_is_calibrated_in_its_place_keeps_who_may_read_it(copy):
    weights = copy / "last.safetensors"
    weights.chmod(0o600)
    calibrate(copy, split="test")
    assert weights.stat().st_mode & 0o777 == 0o600
