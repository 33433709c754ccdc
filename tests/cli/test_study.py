"""`flatnext study` and `flatnext report`."""

from __future__ import annotations

import json

from painted import paint_data
from tiny import TINY_FLAGS

ONE = ("--jobs", 1, "--threads", 1)
"""What `auto` measures is in tests/study/test_pool.py."""


def test_study_and_report(run, tmp_path):
    status, out, err = run("study", "--dataset", "digits", "--seeds", 2, *ONE, *TINY_FLAGS)
    assert status == 0, err
    report = tmp_path / "studies" / "digits" / "report.md"
    assert out.splitlines()[-2:] == ["studies/digits/report.html", "studies/digits/report.md"]
    assert "quick-amp" in report.read_text()
    assert "flatnext study --dataset digits --seeds 2 --jobs 1" in report.read_text()
    before = report.read_text()
    (report.parent / "quick" / "seed-1" / "result.json").unlink()
    assert run("report", report.parent)[0] == 0
    assert report.read_text() != before


def test_a_study_of_a_folder_has_its_name_and_is_not_made_with_other_settings(run, tmp_path):
    paint_data(tmp_path / "my data" / "pets")
    flags = [*TINY_FLAGS, "--train-images", 20, "--validation", 8, "--batch-size", 10, "--flip", "none"]
    study = ["study", "--recipes", "quick", "--seeds", 1, *ONE, *flags, "--data-dir", "my data/pets"]
    status, out, err = run(*study, "--image-size", 8)
    assert status == 0, err
    assert "studies/pets/report.html" in out
    message = run(*study)[2]
    assert "studies/pets/quick/seed-0 was made with --image-size 8, which is not given now: choose" in message


def test_a_study_of_models(run, tmp_path):
    flags = [*TINY_FLAGS[: TINY_FLAGS.index("--blocks")], "--precision", "fp32", "--lr", "0.02"]
    models = ["--models", "resnext11", "resnext20"]
    status, out, err = run("study", "--recipes", "quick", *models, "--seeds", 1, *ONE, *flags)
    assert status == 0, err
    found = {
        name: json.loads((tmp_path / f"studies/digits/quick-{name}/seed-0/config.json").read_text())
        for name in ("resnext11", "resnext20")
    }
    assert found["resnext20"]["model"]["blocks"] == [2, 2, 2]
    assert {**found["resnext11"], "model": 0, "recipe": 0} == {**found["resnext20"], "model": 0, "recipe": 0}
    assert "quick-resnext11" in out
    assert run("study", "--recipes", "quick", *models, "--stem", 3)[0] == 2
    assert run("study", "--recipes", "quick", "--models", "resnet31")[0] == 2


def test_a_failed_run_is_status_1(run):
    flags = [flag if flag != "0.02" else "1e30" for flag in TINY_FLAGS]
    status, _, err = run("study", "--recipes", "quick", "--seeds", 1, *ONE, *flags)
    assert status == 1
    assert "not finite" in err


def test_a_study_with_more_epochs_says_what_can_be_done(run):
    """What is advised does what it says when it is copied."""
    study = ["study", "--recipes", "quick", "--seeds", 1, *ONE, *TINY_FLAGS]
    constant = [*study, "--schedule", "constant", "--output", "constant"]
    assert run(*study, "--output", "cosine")[0] == run(*constant)[0] == 0
    message = run(*study, "--output", "cosine", "--epochs", 2)[2]
    assert message == (
        "flatnext: error: cosine/quick/seed-0 was made with --epochs 1, not 2: choose another output folder, "
        "overwrite it (--overwrite, in Python overwrite=True), or give the same settings\n"
    )
    message = run(*constant, "--epochs", 2)[2]
    assert "give the same settings; to make the run longer: flatnext train --resume constant/quick/seed-0" in message
    assert run(*message.rpartition(": flatnext ")[2].split())[0] == 0
    status, out, err = run(*constant, "--epochs", 2)
    assert status == 0, err
    assert "constant/report.html" in out
