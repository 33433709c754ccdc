"""The folder of a run: what may be done in it, and what is left alone."""

from __future__ import annotations

import linecache
import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from killing import Killed
from same_run import assert_same_run, measured
from tiny import CONFIGS, AtStep, tiny

from flatnext.config import Config
from flatnext.errors import InputError
from flatnext.runs import folder as folder_module
from flatnext.runs.folder import RunFolder
from flatnext.training import train


def test_a_run_folder_is_not_overwritten_unasked(tmp_path):
    config, folder = CONFIGS[0], tmp_path / "run"
    train(config, folder)
    with pytest.raises(InputError, match="--overwrite"):
        train(config, folder)
    with pytest.raises(InputError, match=r"made with --lr 0\.02, not 0\.5: choose another"):
        train(config.override({"learning_rate": 0.5}), folder, resume=True)
    with pytest.raises(InputError, match="made without --image-size, which is 8 now"):
        train(config.override({"image_size": 8}), folder, resume=True)
    with pytest.raises(InputError, match=r"made with --recipe quick, not quick\+amp"):
        train(config.override({"method": "amp"}), folder, resume=True)
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
    names = ("notes.txt", "evidence-mine.json", "calibrated.safetensors")
    for name in names:
        (tmp_path / "run" / name).write_text("precious")
    train(CONFIGS[0], tmp_path / "run", overwrite=True)
    assert {(tmp_path / "run" / name).read_text() for name in names} == {"precious"}


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
    weights = tmp_path / "run" / "last.safetensors"
    weights.parent.mkdir()
    weights.touch()
    for path in (images, images / "train"):
        with pytest.raises(InputError, match=r"holds the images that .* was trained on"):
            folder_module.require_other_images(weights, path)
    folder_module.require_other_images(weights, images / "test")
    folder_module.require_other_images(tmp_path / "elsewhere.safetensors", images)


def test_a_name_is_not_looked_up_in_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folder_module.RunFolder, "data_dir", lambda self: tmp_path / "pets")
    assert folder_module.known_data_dir("resnext29-cifar10") is None
    assert folder_module.known_data_dir(tmp_path) == tmp_path / "pets"


def begin_interrupted(path: Path, number: int) -> bool:
    """Make and hold a folder with a signal at the line of this number; return whether it came that far without one."""
    left, reached = number, False
    files = tuple(f"runs/{name}.py" for name in ("folder", "lock", "claim"))

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        file = frame.f_code.co_filename
        if not file.endswith(files):
            return None
        # `try:` and `with` have no place where Python looks for a signal before what they guard.
        if event == "line" and linecache.getline(file, frame.f_lineno).strip() != "try:":
            left -= 1
            if left == -1:
                raise KeyboardInterrupt
        return trace

    folder, before = RunFolder(path), sys.gettrace()
    sys.settrace(trace)
    try:
        with folder.made(), folder.locked(), folder.removed_unless(lambda: False):
            sys.settrace(before)
            reached = True
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        return reached
    finally:
        sys.settrace(before)


def test_a_signal_at_any_line_of_its_beginning_leaves_nothing(tmp_path: Path) -> None:
    for number in range(500):
        reached = begin_interrupted(tmp_path / "new" / "run", number)
        assert list(tmp_path.iterdir()) == [], number
        if reached:
            break
    assert 40 < number < 500


def test_what_was_made_for_a_run_that_did_not_begin_goes_unless_somebody_uses_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "new" / "run")
    with pytest.raises(FileExistsError), folder.made():  # noqa: PT012
        (folder.path.parent / "other").mkdir()
        folder.path.mkdir()
    assert [path.name for path in folder.path.parent.iterdir()] == ["other"]
    with pytest.raises(InputError, match="mine"), folder.made(), folder.locked():
        raise InputError("mine")
    assert not folder.path.exists()
    folder.path.mkdir()
    with pytest.raises(InputError, match="mine"), folder.made(), folder.locked():
        raise InputError("mine")
    assert [path.name for path in folder.path.iterdir()] == [".lock"]  # the folder was there before
