"""`flatnext tune`: what it prints and writes, and its exit status."""

import json
import shlex
import sys

import pytest
from PIL import Image
from tiny import TINY_FLAGS

pytest.importorskip("optuna")


def test_a_search(run, tmp_path):
    flags = [flag for flag in TINY_FLAGS if flag not in ("--lr", "0.02")]
    output = tmp_path / "search"
    status, out, _ = run(
        "tune", "quick-amp", *flags, "--vary", "lr=log:0.01..0.05", "--vary", "epsilon=0.1,0.2", "--trials", 1,
        "--output", output,
    )  # fmt: skip
    assert status == 0
    header, *_ = out.splitlines()
    assert header.split() == ["trial", "learning_rate", "epsilon", *["seed", "100", "seed", "101", "mean"]]
    assert f"flatnext train --config {output}/best.json" in out
    assert json.loads((output / "best.json").read_text())["recipe"] == "quick-amp"
    page = (output / "tune.html").read_text()
    assert page.count("<svg") == 3
    assert "The test set was not evaluated" in page
    assert run("train", "--config", output / "best.json", "--output", tmp_path / "run", "--track", "none")[0] == 0


def test_commands_name_the_folder_of_pictures(run, tmp_path):
    for number in range(24):
        paint(tmp_path / "pets" / "ab"[number % 2] / f"{number}.png", number)
    flags = ["--image-size", 8, "--cutout", 0, "--epochs", 1, "--batch-size", 4, "--model", "resnext11", "--stem", 8]
    words = ["tune", "sgd", *flags, "--vary", "lr=0.01,0.02", "--trials", 1, "--data-dir", "pets", "--output", "search"]
    status, out, err = run(*words)
    assert status == 0, err
    train, study = (shlex.split(line) for line in out.splitlines() if line.startswith("flatnext "))
    assert train[-2:] == study[-2:] == ["--data-dir", "pets"]
    assert run(*train[1:], "--output", "made", "--track", "none")[0] == 0


def paint(file, number):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (number, 0, 255 * (number % 2))).save(file)


def test_no_trial_has_finished(run, tmp_path):
    flags = [flag for flag in TINY_FLAGS if flag not in ("--lr", "0.02")]
    status, out, _ = run("tune", "quick", *flags, "--vary", "lr=1e29..1e30", "--trials", 1, "--output", "search")
    assert status == 1
    assert "no trial has finished: the loss is not finite" in out
    page = (tmp_path / "search" / "tune.html").read_text()
    assert "None of 1 trial has finished" in page
    assert "failed" in page
    assert not (tmp_path / "search" / "best.json").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--vary", "lr=2..1"], "below the second"),
        (["--vary", "lr=1..2", "--seeds", "1"], "at least 2"),
        (["--vary", "lr=1..2", "--validation", "0"], "validation is 0"),
        (["--vary", "lr=1..2", "--trials", "0"], "trials is 0"),
    ],
)
def test_bad_input(run, tmp_path, flags, said):
    status, _, err = run("tune", "quick", *flags, "--output", tmp_path / "search")
    assert status == 2
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "search").exists()


def test_without_optuna(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    status, _, err = run("tune", "quick", "--vary", "lr=1..2", "--output", tmp_path / "search")
    assert status == 2
    assert "pip install '.[tune]'" in err
    assert not (tmp_path / "search").exists()
