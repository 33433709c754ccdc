"""Data that have changed since a run was trained: every command that uses them again refuses them, or says it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from painted import RUN, paint, paint_data

from flatnext.cli import main

SETTINGS = [str(word) for word in RUN[3:]]
STUDY = ["study", "--recipes", "quick", "quick-amp", "--jobs", "1", *SETTINGS, "--output", "s", "--data-dir", "data"]
NO_AVERAGE = [word for word in SETTINGS if word not in ("--ema", "0.9")]
TUNE = ["tune", "quick", "--vary", "lr=0.01..0.1", "--seeds", "2", *NO_AVERAGE, "--output", "t", "--data-dir", "data"]
ONE, OTHER = "s/quick/seed-0", "s/quick-amp/seed-0"


def more_to_train(data: Path) -> None:
    paint(data / "train", 3, seed=7)


def other_test_images(data: Path) -> None:
    paint(data / "test", 3, seed=7)


def other_pixels(data: Path) -> None:
    shutil.copy(data / "test" / "pear" / "1-0.png", data / "test" / "pear" / "1-1.png")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data, a study and a search."""
    folder = tmp_path_factory.mktemp("whole")
    paint_data(folder / "data", 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("flatnext.cli.study.write", lambda *_: None)  # no report
        assert main([*STUDY, "--seeds", "1"]) == 0
        assert main([*TUNE, "--trials", "1"]) == 0
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of it, which is the current folder."""
    copy = shutil.copytree(whole, tmp_path / "copy")
    for file in copy.rglob("environment.json"):  # where a run's data lay
        file.write_text(file.read_text().replace(str(whole), str(copy)))
    monkeypatch.chdir(copy)
    monkeypatch.setattr("flatnext.cli.study.write", lambda *_: None)
    return copy


MORE = r"68 training images (became|have become) 74"
OTHER_PIXELS = "pixels or labels of the 12 test images are different"
REFUSED = [
    (["evaluate", ONE], other_test_images, r"12 test images (became|have become) 18"),
    (["evaluate", ONE], other_pixels, OTHER_PIXELS),
    (["evaluate", ONE, "--split", "train"], more_to_train, MORE),
    (["evidence", ONE, "--measurements", "calibration"], other_pixels, OTHER_PIXELS),
    (["calibrate", ONE, "--split", "test"], other_pixels, OTHER_PIXELS),
    (["export", ONE, "--to", "onnx"], other_pixels, OTHER_PIXELS),
    (["export", ONE, "--to", "onnx-int8"], more_to_train, MORE),
    (["pack", ONE, "--name", "tiny-folder-one", "--output", "p"], other_pixels, OTHER_PIXELS),
    (["rerun", ONE], other_pixels, OTHER_PIXELS),
    (["rerun", ONE], more_to_train, MORE),
    (["verify", ONE], more_to_train, MORE),
    ([*STUDY, "--seeds", "2"], more_to_train, MORE),
    ([*STUDY, "--seeds", "2"], other_pixels, OTHER_PIXELS),
    ([*TUNE, "--trials", "2"], more_to_train, MORE),
]


@pytest.mark.parametrize(
    ("words", "change", "said"), REFUSED, ids=[f"{row[0][0]}-{row[1].__name__}" for row in REFUSED]
)
def test_it_is_refused_in_one_line_and_nothing_is_written(
    folder: Path,
    words: list[str],
    change: Callable[[Path], None],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(folder / "data")
    before = {path for path in folder.rglob("*") if path.suffix != ".db"}
    assert main(words) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert re.match(rf"flatnext: error: the data are not those (of|that) .*\({said}\): restore them", line)
    left = {path for path in folder.rglob("*") if path.suffix != ".db"} - before
    assert not [path for path in left if path.is_file() and path.name != ".lock"]


def test_two_models_are_compared_and_it_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", ONE, OTHER]) == 0
    assert "had beside its training" not in capsys.readouterr().out
    other_pixels(folder / "data")
    assert main(["compare", ONE, OTHER]) == 0
    output = capsys.readouterr().out
    for path in (ONE, OTHER):
        assert f"The test images are not those that {path} had beside its training ({OTHER_PIXELS})." in output


def test_a_last_run_like_a_study_is_made_and_it_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flatnext.study.final_run.recommended", lambda study: study.groups[0])
    like = ["train", "--like", "s", "--epochs", "1", "--output"]
    assert main([*like, "same"]) == 0
    assert "the data are not those" not in capsys.readouterr().err
    more_to_train(folder / "data")
    assert main([*like, "more"]) == 0
    words = "the data are not those of s/quick/seed-0 ("
    assert words in capsys.readouterr().err
    notes = json.loads((folder / "more" / "environment.json").read_text())["data_notes"]
    assert any(words in note for note in notes)
