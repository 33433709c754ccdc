"""An epoch of a run, replayed from what was kept, is the same to the bit; what differs is said."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killing import Killed
from painted import paint, paint_data
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import AtStep, tiny

from flatnext.cli import main
from flatnext.errors import InputError
from flatnext.runs.claim import CLAIM, this_process
from flatnext.schema import dump
from flatnext.training import Stopped, train
from flatnext.training.checkpoint import kept_checkpoints
from flatnext.training.verify import KEEP, verify

CONFIG = tiny("quick-amp", epochs=3, ema=0.9, precision="auto")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that has kept all its checkpoints."""
    folder = tmp_path_factory.mktemp("kept") / "run"
    train(CONFIG, folder, track=(), keep_checkpoints="all")
    return folder


def contents(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_each_epoch_of_a_run_that_kept_its_checkpoints_is_the_same(
    kept: Path, epoch: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(kept)
    assert main(["verify", str(kept), "--epoch", str(epoch)]) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    start = "the beginning of the run" if epoch == 1 else kept / "checkpoints" / f"epoch-0000{epoch - 1}.safetensors"
    assert first.startswith(f"replayed epoch {epoch}, steps {4 * epoch - 3} to {4 * epoch}, from {start} in ")
    assert second.startswith("the same to the bit: ")
    assert second.endswith(f"epoch-0000{epoch}.safetensors and its optimizer")
    assert third == "the same to the bit: the metrics of the epoch"
    assert contents(kept) == before


def test_what_is_compared_is_weights_those_trained_on_and_the_optimizers(kept: Path) -> None:
    result = verify(kept, epoch=2)
    state = load_file(kept / "last.safetensors")
    momentum = [name for name in state if name.endswith(("weight", "bias"))]
    assert result.weights is not None
    assert result.weights.tensors == 2 * len(state) + len(momentum)
    assert result.span.epoch == 2


def test_without_a_number_it_is_one_by_chance(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("random.SystemRandom.choice", lambda _, there: seen.extend(there) or there[-1])
    assert verify(kept).span.epoch == 3
    assert [span.epoch for span in seen] == [1, 2, 3]


@pytest.mark.parametrize("what", ["weights", "optimizer", "metrics"])
def test_what_differs_is_said(kept: Path, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(kept, tmp_path / "run")
    end = kept_checkpoints(folder)[2]
    with safe_open(end, "pt") as file:
        metadata = file.metadata()
    state = end.parent / metadata["state"]
    content = torch.load(state, weights_only=True)
    if what == "weights":
        tensors = load_file(end)
        tensors["conv1.weight"][0, 0, 0, 0] += 0.25
        save_file(tensors, end, metadata)
        del content["weights_digest"]
    elif what == "optimizer":
        content["optimizer"]["state"][0]["momentum_buffer"] += 0.125
    else:
        file = folder / "metrics.jsonl"
        lines = file.read_text().splitlines()
        lines[1] = lines[1].replace('"train_loss": ', '"train_loss": 1')
        file.write_text("\n".join(lines))
    torch.save(content, state)
    if what != "metrics":
        save_file(load_file(end), end, {key: value for key, value in metadata.items() if key != "state_sha256"})
        torch.save({key: value for key, value in content.items() if key != "weights_digest"}, state)
    else:
        shutil.copy(kept / "checkpoints" / state.name, state)
    assert main(["verify", str(folder), "--epoch", "2"]) == 1
    output = capsys.readouterr().out
    if what == "metrics":
        assert "metrics that differ: train_loss\n" in output
    else:
        amount = {"weights": 0.25, "optimizer": 0.125}[what]
        assert f"1 of {verify(kept, epoch=2).weights.tensors} tensors differ, by at most {amount}, from " in output
    assert output.endswith("circumstances that differ: none that are noted\n")


def test_a_run_without_checkpoints_says_how_to_keep_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(CONFIG, tmp_path / "run", track=())
    assert main(["verify", str(tmp_path / "run")]) == 0
    output = capsys.readouterr().out
    assert output.startswith("replayed epoch 1, steps 1 to 4, from the beginning of the run")
    assert f"no checkpoint to compare weights with: the metrics alone were compared; {KEEP}\n" in output
    with pytest.raises(InputError, match=r"epoch 2 of .* cannot be replayed.*take one of 1; flatnext train --keep-ch"):
        verify(tmp_path / "run", epoch=2)


@pytest.mark.parametrize(("step", "held"), [(6, "by nobody"), (9, "by nobody"), (9, "by a process that was killed")])
def test_an_unfinished_run_is_replayed_between_its_two_checkpoints(tmp_path: Path, step: int, held: str) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Stopped):
        train(CONFIG, folder, track=(), display=AtStep(step, lambda: os.kill(os.getpid(), signal.SIGINT)))
    if held == "by a process that was killed":
        holder = replace(this_process("2026-01-01", ""), began="1")  # another that had this number
        (folder / CLAIM).write_text(json.dumps(dump(holder)))
    result = verify(folder)
    assert result.same
    assert result.optimizer
    # That of the end of the second epoch is there, but not that of the first.
    assert (result.span.epoch, result.steps) == ((1, (0, 4)) if step == 6 else (None, (8, 9)))


def test_one_that_was_killed_before_its_first_checkpoint_has_nothing(tmp_path: Path) -> None:
    def die() -> None:
        raise Killed

    with pytest.raises(Killed):
        train(CONFIG, tmp_path / "run", track=(), display=AtStep(2, die))
    with pytest.raises(InputError, match="has nothing to replay yet: flatnext train --keep-checkpoints"):
        verify(tmp_path / "run")
    with pytest.raises(InputError, match="is not the folder of a run"):
        verify(tmp_path)


def test_a_number_of_checkpoints_keeps_the_last(tmp_path: Path) -> None:
    train(CONFIG, tmp_path / "run", track=(), keep_checkpoints=2)
    assert list(kept_checkpoints(tmp_path / "run")) == [2, 3]
    assert verify(tmp_path / "run").span.epoch == 3
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 4


def test_each_epoch_of_a_run_that_was_made_longer_has_its_own_schedule(tmp_path: Path) -> None:
    """The checkpoint at the end of the old schedule is written again when the run goes on, with the new config."""
    config = tiny(epochs=2, evaluate_every=2)
    train(config, tmp_path, track=(), keep_checkpoints="all")
    changes = {"epochs": 4, "schedule": "constant", "learning_rate": 0.02}
    train(config, tmp_path, track=(), resume=True, changes=changes)
    assert [verify(tmp_path, epoch=epoch).same for epoch in (2, 3, 4)] == [True] * 3
    (tmp_path / "one").mkdir()
    train(config.override({"epochs": 1}), tmp_path / "one", track=(), keep_checkpoints="all")
    train(config.override({"epochs": 1}), tmp_path / "one", track=(), resume=True, changes=changes)
    assert verify(tmp_path / "one", epoch=2).same
    with pytest.raises(InputError, match="the schedule of epoch 1 is not known, as the run was made longer after it"):
        verify(tmp_path / "one", epoch=1)


def test_an_epoch_within_which_the_run_was_made_longer_is_not_replayed(tmp_path: Path) -> None:
    config = tiny(epochs=3, schedule="cosine")
    stop = AtStep(6, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Stopped):
        train(config, tmp_path, track=(), keep_checkpoints="all", display=stop)
    train(config, tmp_path, track=(), resume=True, changes={"epochs": 4, "schedule": "constant"})
    with pytest.raises(InputError, match="was made longer within epoch 2, which had two schedules"):
        verify(tmp_path, epoch=2)
    assert [verify(tmp_path, epoch=epoch).same for epoch in (3, 4)] == [True] * 2
    assert {verify(tmp_path).span.epoch for _ in range(8)} <= {1, 3, 4}


def test_more_epochs_alone_are_another_schedule_in_no_epoch(tmp_path: Path) -> None:
    config = tiny(epochs=2, schedule="constant")
    stop = AtStep(6, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Stopped):
        train(config, tmp_path, track=(), keep_checkpoints="all", display=stop)
    train(config, tmp_path, track=(), resume=True, changes={"epochs": 3})
    assert verify(tmp_path, epoch=2).same


def test_other_data_are_refused(tmp_path: Path) -> None:
    config = tiny(dataset="folder", image_size=8, train_images=None, validation=None, epochs=1, batch_size=20)
    data = paint_data(tmp_path / "data")
    train(config, tmp_path / "run", track=(), data_dir=data)
    assert verify(tmp_path / "run", data_dir=data).same
    paint(data / "train", 3, seed=9)
    with pytest.raises(
        InputError, match=r"the data are not those that .*run was trained on \(\d+ training images have"
    ):
        verify(tmp_path / "run", data_dir=data)


def test_the_threads_and_the_precision_are_the_runs(tmp_path: Path) -> None:
    threads = torch.get_num_threads() + 1
    train(CONFIG.override({"precision": "bf16"}), tmp_path / "run", track=(), threads=threads, keep_checkpoints="all")
    assert torch.get_num_threads() == threads - 1
    result = verify(tmp_path / "run", epoch=2)
    assert (result.threads, result.precision, result.same) == (threads, "bf16", True)
