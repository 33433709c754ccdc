"""A run that was stopped or killed and then resumed ends as one that was not."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import signal

import pytest
import safetensors.torch
import torch
from killing import Killed, kill_at_write
from places import RUNS_OF_0_1_0
from same_run import assert_same_run, weights
from tiny import CONFIGS, AtStep, tiny
from torch import nn

from flatnext.errors import InputError
from flatnext.processes import Processes
from flatnext.runs.folder import RunFolder
from flatnext.runs.lock import HeldError
from flatnext.schema import dump
from flatnext.training import Stopped, load_data, run_state, session, train
from flatnext.training.evaluator import Evaluator

WRITES = 2 + 2 * 4 + 2  # config, session; metrics, state, last and best of two epochs; calibration of last; result


@pytest.mark.parametrize("number", [1, 3, 4, 5, 8])
def test_stopped_by_a_signal_and_resumed_ends_the_same(whole, tmp_path, number):
    config, folder = whole
    with pytest.raises(Stopped, match="--resume"):
        train(config, tmp_path / "run", display=AtStep(number, lambda: os.kill(os.getpid(), signal.SIGINT)))
    rest = AtStep(0, None)
    train(config, tmp_path / "run", resume=True, display=rest)
    assert rest.steps == 8 - number  # nothing is done twice
    assert_same_run(folder, tmp_path / "run")


def test_resumed_where_auto_is_another_precision_it_keeps_all_its_digits(never_stopped, tmp_path, monkeypatch):
    """As on a GPU since Ampere, whose convolutions in fp32 round to TF32 unless they are told not to."""
    config, folder = CONFIGS[0].override({"precision": "auto"}), tmp_path / "run"
    assert CONFIGS[0].precision == "fp32"
    theirs = weights(never_stopped(CONFIGS[0]))
    monkeypatch.setattr(run_state, "resolve_precision", lambda name, device: "fp32")
    with pytest.raises(Stopped):
        train(config, folder, display=AtStep(3, lambda: os.kill(os.getpid(), signal.SIGINT)))
    monkeypatch.setattr(run_state, "resolve_precision", lambda name, device: "bf16")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    train(config, folder, resume=True)
    assert not torch.backends.cudnn.allow_tf32
    ours = weights(folder)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_all_processes_of_a_run_have_the_precision_of_the_first(tmp_path, monkeypatch):
    class Second(Processes):
        def on_first(self, function):
            return "bf16"

    monkeypatch.setattr(run_state, "resolve_precision", lambda name, device: "fp32")
    partition = load_data(config := tiny(precision="auto"), tmp_path)
    run = run_state.RunState(config, RunFolder(tmp_path), partition, torch.device("cpu"), Second(rank=1))
    assert run.precision == "bf16"


def test_there_are_no_more_writes(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        kill_at_write(patch, WRITES)
        train(CONFIGS[1], tmp_path / "run")
    assert RunFolder(tmp_path / "run").finished()


@pytest.mark.parametrize("write", range(WRITES))
def test_killed_at_any_write_and_resumed_ends_the_same(never_stopped, tmp_path, write):
    config, folder = CONFIGS[1], tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        kill_at_write(patch, write)
        with pytest.raises(Killed):
            train(config, folder)
    train(config, folder, resume=True)
    assert_same_run(folder, never_stopped(config))


def test_killed_between_checkpoints_goes_on_from_the_last_one(never_stopped, tmp_path):
    def die() -> None:
        raise Killed

    with pytest.raises(Killed):
        train(CONFIGS[0], tmp_path / "run", display=AtStep(6, die))
    rest = AtStep(0, None)
    train(CONFIGS[0], tmp_path / "run", resume=True, display=rest)
    assert rest.steps == 4
    assert_same_run(tmp_path / "run", never_stopped(CONFIGS[0]))


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_run_that_another_process_makes_while_data_load_is_left_to_it(tmp_path, monkeypatch, epochs):
    def load(config, data_dir, **options):
        monkeypatch.setattr(session, "load_data", load_data)  # that of the other process is as it is
        stop = AtStep(6, lambda: os.kill(os.getpid(), signal.SIGINT)) if epochs == 2 else None
        with pytest.raises(Stopped) if epochs == 2 else contextlib.nullcontext():
            train(config, tmp_path / "run", display=stop)
        return load_data(config, data_dir, **options)

    monkeypatch.setattr(session, "load_data", load)
    with pytest.raises(HeldError, match="another process has run this meanwhile: the same command goes on with it"):
        train(tiny(epochs=epochs), tmp_path / "run", resume=True)
    assert len(RunFolder(tmp_path / "run").epochs()) == 1
    train(tiny(epochs=epochs), tmp_path / "run", resume=True)
    assert len(RunFolder(tmp_path / "run").epochs()) == epochs


def test_a_finished_run_is_returned_and_not_repeated(whole):
    config, folder = whole
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert dump(train(config, folder, resume=True)) == json.loads((folder / "result.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_signal_during_the_last_evaluation_is_not_lost(never_stopped, tmp_path, monkeypatch):
    real = Evaluator.validation
    monkeypatch.setattr(
        Evaluator, "validation", lambda evaluator: (os.kill(os.getpid(), signal.SIGINT), real(evaluator))[1]
    )
    with pytest.raises(Stopped):
        train(tiny(epochs=1), tmp_path / "run")
    monkeypatch.undo()
    train(tiny(epochs=1), tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", never_stopped(tiny(epochs=1)))


def test_a_restart_goes_on_with_its_own_run_alone(tmp_path, monkeypatch):
    def die():
        raise Killed

    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)  # as torchrun sets them
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    with pytest.raises(Killed):
        train(CONFIGS[0], tmp_path / "run", display=AtStep(6, die))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another")
    with pytest.raises(InputError, match="holds a run"):
        train(CONFIGS[0], tmp_path / "run")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    rest = AtStep(0, None)
    train(CONFIGS[0], tmp_path / "run", overwrite=True, display=rest)
    assert rest.steps == 4  # the restart of a launch that was told to overwrite does not begin anew


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state-000000004-*.pt", b"half"),
        ("state-000000004-*.pt", None),
        ("environment.json", b"[]"),
        ("environment.json", b"{}"),
        ("metrics.jsonl", b"\xff"),
        ("metrics.jsonl", b"{}\n"),
        ("last.safetensors", b"half"),
        ("config.json", b"{}"),
    ],
)
def test_a_damaged_folder_is_one_line(tmp_path, name, content):
    def die():
        raise Killed

    with pytest.raises(Killed):
        train(CONFIGS[0], tmp_path, display=AtStep(6, die))
    (path,) = tmp_path.glob(name)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        train(CONFIGS[0], tmp_path, resume=True)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_last_checkpoint_before_a_failure_is_finite(never_stopped, tmp_path):
    config = tiny(epochs=3)

    folder = tmp_path / "run"
    calls = []

    def fake(logits, labels, **options):
        calls.append(1)
        return real(logits, labels, **options) * (math.nan if len(calls) == 8 else 1.0)

    real = nn.functional.cross_entropy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.nn.functional.cross_entropy", fake)
        with pytest.raises(InputError, match=r"step 5 \(epoch 2\)"):
            train(config, folder)
    assert all(bool(torch.isfinite(value).all()) for value in weights(folder).values() if value.is_floating_point())
    train(config, folder, resume=True)
    assert not (folder / "failure.json").exists()
    assert_same_run(folder, never_stopped(config))


def test_a_full_disk_is_one_line_and_keeps_the_checkpoint(never_stopped, tmp_path, monkeypatch):
    config, folder = tiny(), tmp_path / "run"

    def full(descriptor):
        if (folder / "last.safetensors").exists():
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*No space left"):
        train(config, folder)
    assert not list(folder.glob(".*.tmp"))
    assert weights(folder)
    monkeypatch.undo()
    train(config, folder, resume=True)
    assert_same_run(folder, never_stopped(config))


def test_a_half_finished_run_of_0_1_0_ends_as_it_would_have_there(tmp_path):
    folder = shutil.copytree(RUNS_OF_0_1_0 / "half-finished", tmp_path / "run")
    train(RunFolder(folder).config(), folder, device="cpu", resume=True)
    expected = safetensors.torch.load_file(RUNS_OF_0_1_0 / "expected" / "half-finished.safetensors")
    trained = weights(folder)
    assert trained.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(trained[name], value, rtol=1e-4, atol=1e-6)
    sessions = json.loads((folder / "environment.json").read_text())["sessions"]
    assert [session["from_step"] for session in sessions] == [0, 6]


EDITS = {"optimizer": {"learning_rate": 0.5}, "epochs": 1, "batch_size": 16, "seed": 3, "data": {"split_seed": 9}}


@pytest.mark.parametrize("setting", EDITS)
def test_a_config_that_was_edited_between_stop_and_resume_is_refused(tmp_path, setting):
    with pytest.raises(Stopped):
        train(CONFIGS[0], tmp_path / "run", display=AtStep(3, lambda: os.kill(os.getpid(), signal.SIGINT)))
    file, value = tmp_path / "run" / "config.json", EDITS[setting]
    content = json.loads(file.read_text())
    before = content[setting]
    content[setting] = before | value if isinstance(value, dict) else value
    file.write_text(json.dumps(content))
    name, new = (f"{setting}.{next(iter(value))}", *value.values()) if isinstance(value, dict) else (setting, value)
    old = before[next(iter(value))] if isinstance(value, dict) else before
    with pytest.raises(InputError, match=re.escape(f"last.safetensors was trained with {name} = {old}, not {new}")):
        train(RunFolder(tmp_path / "run").config(), tmp_path / "run", resume=True)


def test_another_number_of_epochs_is_not_the_same_run(tmp_path, whole):
    config, folder = whole
    with pytest.raises(InputError, match=r"--epochs 2, not 5: choose another output folder, .* settings$"):
        train(config.override({"epochs": 5}), folder, resume=True)
    with pytest.raises(InputError, match=r"holds a finished run: choose .*, or overwrite it \(--over"):
        train(config.override({"epochs": 5}), folder)
