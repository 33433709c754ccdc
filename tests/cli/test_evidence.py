"""`flatnext evidence`."""

from __future__ import annotations

import json
import shutil

import pytest
from tiny import tiny

from flatnext.training import train


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Return a folder with two finished runs."""
    folder = tmp_path_factory.mktemp("study")
    for name in ("quick", "quick-amp"):
        train(tiny(name, epochs=1), folder / name / "seed-0", device="cpu")
    return folder


def read(path):
    return json.loads(path.read_text())


def test_a_study_gets_its_evidence_and_its_report(run, study):
    flags = ["--measurements", "calibration", "--images", 50]
    status, out, err = run("evidence", study, *flags)
    assert status == 0, err
    assert out.splitlines()[-1] == str(study / "report.md")
    files = [study / name / "seed-0" / "evidence.json" for name in ("quick", "quick-amp")]
    contents = [read(file) for file in files]
    assert [content["parts"]["calibration"]["result"]["count"] for content in contents] == [50, 50]
    assert run("evidence", study, *flags)[0] == 0
    assert [read(file) for file in files] == contents  # what is there is kept
    assert run("evidence", study / "quick" / "seed-0", *flags, "--overwrite")[0] == 0
    assert read(files[0]) != contents[0]


def test_a_run_that_cannot_be_measured_does_not_keep_the_others_from_it(run, study, tmp_path):
    shutil.copytree(study, tmp_path / "study")
    (tmp_path / "study" / "quick" / "seed-0" / "last.safetensors").write_bytes(b"half")
    status, out, err = run("evidence", tmp_path / "study", "--measurements", "errors", "--images", 20)
    assert status == 1
    assert out.splitlines()[0] == str(tmp_path / "study" / "quick-amp" / "seed-0" / "evidence.json")
    assert "last.safetensors" in err.splitlines()[-1]


def test_one_weights_file(run, study, tmp_path):
    flags = ["--measurements", "errors"]
    status, out, err = run("evidence", study / "quick" / "seed-0" / "best.safetensors", *flags)
    assert status == 0, err
    assert out.strip() == "seed-0-best-evidence.json"
    assert (tmp_path / "seed-0-best-evidence.json").is_file()


def test_a_folder_of_weights_that_is_no_run(run, study, tmp_path):
    (tmp_path / "weights").mkdir()
    shutil.copy(study / "quick" / "seed-0" / "last.safetensors", tmp_path / "weights" / "last.safetensors")
    status, out, err = run("evidence", tmp_path / "weights", "--measurements", "errors", "--images", 20)
    assert (status, out.splitlines()) == (0, [str(tmp_path / "weights" / "evidence.json")]), err


def test_the_best_epoch_has_a_file_of_its_own(run, study):
    folder = study / "quick" / "seed-0"
    flags = ["--checkpoint", "best", "--measurements", "errors", "--images", 10]
    status, _, err = run("evidence", folder, *flags)
    assert status == 0, err
    assert read(folder / "evidence-best.json")["checkpoint"] == "best"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--measurements", "every"], "measurement is 'every'"),
        (["--measurements", "errors", "--cifar10-c", "x"], "corruptions"),
        (["--measurements", "corruptions", "--cifar10-c", "nowhere"], "nowhere"),
        (["--measurements", "errors", "--test-set", "nowhere"], "nowhere"),
        (["--measurements", "attacks", "--linf", "--l2"], "both empty"),
        (["--split", "test"], "unrecognized arguments: --split"),
        (["--images", "0"], "images is 0"),
        (["--cutout", "4"], "--cutout"),
    ],
)
def test_bad_input_is_one_line(run, study, flags, message):
    status, _, err = run("evidence", study / "quick" / "seed-0", *flags)
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_one_output_for_one_model(run, study):
    status, _, err = run("evidence", study, "--measurements", "errors", "--output", "x.json")
    assert status == 2
    assert "--output is for one model" in err
