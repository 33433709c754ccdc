"""The folder of a run: what may be done in it, and what is left alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from same_run import assert_same_run, measured
from tiny import AtStep, tiny

from flatnext.config import Config
from flatnext.errors import InputError
from flatnext.runs import folder as folder_module
from flatnext.runs.folder import RunFolder
from flatnext.training import train

CONFIGS = [
    tiny(),
    tiny("quick-amp", ema=0.9),
    tiny("quick-amp", inner_iter=2, precision="bf16", clip_norm=1.0, cutout=4),
]


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_run_folder_is_not_overwritten_unasked(tmp_path):
    config, folder = CONFIGS[0], tmp_path / "run"
    train(config, folder)
    with pytest.raises(InputError, match="--overwrite"):
        train(config, folder)
    with pytest.raises(InputError, match=r"optimizer\.learning_rate = 0\.02, not 0\.5"):
        train(config.override({"learning_rate": 0.5}), folder, resume=True)
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="not a run folder"):
        train(config, tmp_path, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_a_name_that_is_not_utf8_is_refused_in_one_line(tmp_path):
    folder = RunFolder(tmp_path / os.fsdecode(b"caf\xe9"))
    with pytest.raises(InputError, match=r"caf\\udce9 is not UTF-8: choose another --output"):
        folder.check(Config(), resume=False, overwrite=False)


def test_overwrite_deletes_nothing_that_is_not_a_runs(tmp_path):
    foreign = tmp_path / "project"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"name": "my project"}')
    with pytest.raises(InputError, match="not a run folder"):
        train(CONFIGS[0], foreign, overwrite=True)
    train(CONFIGS[0], tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("precious")
    train(CONFIGS[0], tmp_path / "run", overwrite=True)
    assert (tmp_path / "run" / "notes.txt").read_text() == "precious"


@pytest.mark.parametrize("options", [{"overwrite": True}, {"resume": True}], ids=str)
def test_the_files_of_a_run_under_way_are_left_alone(tmp_path, options):
    train(CONFIGS[0], tmp_path)
    (tmp_path / "result.json").unlink()  # it is not finished
    (tmp_path / ".last.safetensors.tmp").touch()  # and is writing a checkpoint
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    with RunFolder(tmp_path).locked(), pytest.raises(InputError, match="another process is running this"):
        train(CONFIGS[0], tmp_path, **options)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert {**after, tmp_path / ".lock": 0} == {**before, tmp_path / ".lock": 0}


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    def second():
        with pytest.raises(InputError, match="another process"):
            train(CONFIGS[0], tmp_path / "run", resume=True)

    train(CONFIGS[0], tmp_path / "run", display=AtStep(2, second))


def test_overwrite_begins_anew(tmp_path):
    train(tiny(), tmp_path / "run")
    train(tiny("quick-amp", epochs=1), tmp_path / "run", overwrite=True)
    assert len(measured(tmp_path / "run")) == 1


def test_an_interrupted_overwrite_can_be_repeated(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    train(CONFIGS[0], folder)
    real, calls = Path.unlink, []

    def unlink(path, **options):
        calls.append(path)
        if len(calls) == 3:
            raise Killed
        real(path, **options)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(Killed):
        train(CONFIGS[0], folder, overwrite=True)
    monkeypatch.undo()
    train(CONFIGS[0], folder, overwrite=True)
    train(CONFIGS[0], tmp_path / "whole")
    assert_same_run(folder, tmp_path / "whole")


def test_the_images_of_a_run_are_no_test_set(tmp_path, monkeypatch):
    images = tmp_path / "pets"
    (images / "train").mkdir(parents=True)
    (images / "test").mkdir()
    monkeypatch.setattr(folder_module.RunFolder, "data_dir", lambda self: images if self.path.name == "run" else None)
    for path in (images, images / "train"):
        with pytest.raises(InputError, match=r"holds the images that .* was trained on"):
            folder_module.require_other_images(tmp_path / "run" / "last.safetensors", path)
    folder_module.require_other_images(tmp_path / "run" / "last.safetensors", images / "test")
    folder_module.require_other_images(tmp_path / "elsewhere.safetensors", images)
