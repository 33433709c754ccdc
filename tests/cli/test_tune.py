"""`flatnext tune`: what it prints and writes, and its exit status."""

import json
import sys

import pytest
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
