"""Every command that takes weights or runs, given everything else that people have: one line with cause and remedy."""

from __future__ import annotations

import contextlib
import json
import shutil
import zipfile

import pytest
from PIL import Image
from tiny import tiny

import flatnext
from flatnext import cli
from flatnext.errors import FallbackWarning
from flatnext.serve import server
from flatnext.training import train

WEIGHTS = {
    "predict": ["predict", "X", "pets/cat/1.png"],
    "calibrate": ["calibrate", "X", "--split", "test", "--output", "new.safetensors"],
    "compare": ["compare", "X", "run"],
    "compare with": ["compare", "run", "X"],
    "evaluate": ["evaluate", "X"],
    "evidence": ["evidence", "X", "--measurements", "calibration", "--output", "new.json"],
    "export": ["export", "X", "--to", "onnx"],
    "train --weights": ["train", "--weights", "X", "--dataset", "digits", "--output", "new"],
    "serve": ["serve", "X"],
}
RUNS = {
    "pack": ["pack", "X", "--name", "resnext11-digits-x", "--output", "new"],
    "rerun": ["rerun", "X", "--output", "new"],
    "train --resume": ["train", "--resume", "X"],
}
STUDIES = {"report": ["report", "X", "--output", "new"], "train --like": ["train", "--like", "X", "--output", "new"]}
COMMANDS = WEIGHTS | RUNS | STUDIES

WRONG = {
    "runs": "runs holds 2 runs: give one of them, such as runs/one",
    "study": "study is a study with 1 run: give one of them, such as study/sgd/seed-0",
    "pets/cat/1.png": "pets/cat/1.png is a picture and no trained model: give ",
    "pets/cat": "pets/cat is a folder of pictures and no trained model: give ",
    "pets": "pets is a folder of pictures and no trained model: give ",
    "empty": "empty is empty: give ",
    "other": "other holds no run: give ",
    "pets.zip": "pets.zip is a zip archive: unpack it, and give ",
    "pets.tar": "pets.tar is an archive: unpack it, and give what is in it",
    "labels.csv": "labels.csv is no weights file of torch (.csv): give ",
    "model.h5": "model.h5 is no weights file of torch (.h5): give ",
    "model.onnx": "model.onnx is a model in ONNX, for predict, compare and serve: give the run folder or weights file "
    "that it was made from",
    "model.pt2": "model.pt2 is a model for torch.export.load, which no command here runs: give the run folder or "
    "weights file that it was made from, or export it --to onnx",
    "script.pt": "script.pt is a model in TorchScript: save its weights with torch.save(model.state_dict(), PATH)",
    "run/config.json": "run/config.json is a file of a run",
    "nowhere": "nowhere does not exist: give ",
    "nowhere.onnx": "nowhere.onnx does not exist: give ",
    "resnext29-cifar100": "resnext29-cifar100 does not exist: give ",
    "https://example.com/cat.png": "https://example.com/cat.png is an address on the web, and nothing is fetched from "
    "there: download the file, and give its path",
}
OF_THEIR_OWN = {
    # what takes the thing, or says more of it
    ("calibrate", "model.onnx"): "was exported: calibrate the weights that it is of, and export them again",
    **{(name, "model.onnx"): "is no ONNX model that can" for name in ("predict", "compare", "compare with", "serve")},
    ("evidence", "runs"): "--output is for one model: runs holds 2 runs",
    **{(command, kind): None for command in STUDIES for kind in ("runs", "study")},
    ("evidence", "study"): None,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a run, one that has not finished, and everything in `WRONG` that exists."""
    place = tmp_path_factory.mktemp("place")
    train(tiny(), place / "run")
    for copy in ("half", "runs/one", "runs/two", "study/sgd/seed-0"):
        shutil.copytree(place / "run", place / copy)
    (place / "half" / "result.json").unlink()
    lines = (place / "half" / "metrics.jsonl").read_text().splitlines()
    (place / "half" / "metrics.jsonl").write_text(lines[0] + "\n")
    (place / "study" / "study.json").write_text("{}")
    (place / "pets" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(place / "pets" / "cat" / "1.png")
    for name in ("empty", "other"):
        (place / name).mkdir()
    for name in ("other/x.bin", "pets.tar", "labels.csv", "model.h5", "model.onnx"):
        (place / name).write_bytes(b"image,label\n")
    inside = {"pets.zip": "pets/cat/1.png", "model.pt2": "model/archive_format", "script.pt": "script/constants.pkl"}
    for name, member in inside.items():
        with zipfile.ZipFile(place / name, "w") as file:
            file.writestr(member, "")
    shutil.copy(place / "run" / "last.safetensors", place / "alone.safetensors")
    return place


@pytest.fixture
def call(place, monkeypatch, capsys):
    """Return a function that runs a command in that folder; a service listens nowhere."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(server, "listen", lambda host, port: contextlib.nullcontext())

    def call(*arguments):
        status = cli.main(list(map(str, arguments)))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_not_taken_is_named_with_the_remedy(place, call, command, kind):
    message = OF_THEIR_OWN.get((command, kind), WRONG[kind])
    if message is None:
        pytest.skip("taken")
    before = sorted(place.rglob("*"))
    status, out, err = call(*(kind if part == "X" else part for part in COMMANDS[command]))
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("flatnext: error: ")
    assert message in err
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("command", [*RUNS, *STUDIES])
def test_weights_in_place_of_their_run(call, command):
    for file, message in {
        "run/last.safetensors": "run/last.safetensors is a file of a run: give the run, run",
        "alone.safetensors": "alone.safetensors is a file: give ",
    }.items():
        status, _, err = call(*(file if part == "X" else part for part in COMMANDS[command]))
        assert (status, err.count("\n")) == (2, 1)
        assert message in err


def test_weights_that_are_to_be_served_are_exported_first(call):
    for given in ("run", "alone.safetensors"):
        assert f"{given} is no .onnx file: make one with flatnext export {given} --to onnx" in call("serve", given)[2]


@pytest.mark.parametrize("given", ["run", "run/best.safetensors", "alone.safetensors"])
def test_weights_answer_wherever_they_lie(call, given):
    assert call("predict", given, "pets")[0] == 0
    assert call("evaluate", given, "--json")[0] == 0


UNFINISHED = {
    "predict": ["predict", "half", "pets"],
    "compare": ["compare", "half", "half"],
    "evaluate": ["evaluate", "half"],
    "export": ["export", "half", "--to", "hub", "--images", "10"],
}


@pytest.mark.parametrize("command", UNFINISHED)
@pytest.mark.filterwarnings("default::flatnext.errors.FallbackWarning")
def test_a_run_that_has_not_finished_is_used_with_a_word_about_it(place, call, command):
    status, out, err = call(*UNFINISHED[command])
    shutil.rmtree(place / "half-hub", ignore_errors=True)
    assert status == 0
    assert out
    line = "flatnext: warning: half has not finished: 1 of 2 epochs are in its last checkpoint\n"
    assert [text for text in err.splitlines(keepends=True) if "warning" in text] == [line]


@pytest.mark.parametrize("use", [flatnext.load, flatnext.from_pretrained, flatnext.load_predictor, flatnext.evaluate])
def test_python_warns_of_a_run_that_has_not_finished(place, use):
    with pytest.warns(FallbackWarning, match="half has not finished: 1 of 2 epochs are in its last checkpoint"):
        use(place / "half")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["calibrate", "half", "--split", "test"], "half has not finished: wait, or go on with flatnext train"),
        (["evidence", "half"], "half has not finished: wait, or go on with flatnext train --resume half"),
        (["pack", "half", "--name", "resnext11-digits-x"], "half has no result (unfinished: 1 of 2 epochs)"),
        (["rerun", "half"], "half is unfinished: 1 of 2 epochs: finish it first, with flatnext train --resume half"),
    ],
)
def test_what_needs_a_finished_run_says_so(call, command, message):
    status, _, err = call(*command)
    assert (status, err.count("\n")) == (2, 1)
    assert message in err


def test_a_run_without_a_checkpoint(place, call):
    (place / "begun").mkdir(exist_ok=True)
    (place / "begun" / "config.json").write_text(json.dumps(tiny().to_json()))
    message = "begun is a run without a checkpoint: begin it: flatnext train --resume begun"
    assert message in call("evaluate", "begun")[2]
    shutil.rmtree(place / "begun")


def test_pictures_that_are_none(call):
    status, out, err = call("predict", "run", "https://example.com/cat.png", "pets/cat/1.png", "run")
    assert (status, out.count("\n")) == (1, 1)
    assert "https://example.com/cat.png: an address on the web, where nothing is fetched from: download it first" in err
