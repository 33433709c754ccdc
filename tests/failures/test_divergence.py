"""A loss that is not finite: the run stops, or goes back and on with a lower rate, and says so in its files."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import Killed, kill_at_write
from said import Said
from same_run import assert_same_run, measured, weights
from tiny import AtStep, tiny

from flatnext.deploy.pack import pack
from flatnext.errors import InputError
from flatnext.report.protocol import remarks
from flatnext.runs.folder import RunFolder
from flatnext.runs.reading import read_environment
from flatnext.runs.records import Rollback
from flatnext.schema import dump
from flatnext.study.reading import read_study
from flatnext.training import Stopped, run_state, train
from flatnext.training.checkpoint import read_checkpoint
from flatnext.training.rerun import rerun
from flatnext.training.step import Step
from flatnext.training.verify import verify

CONFIG = tiny("quick-amp", epochs=3, ema=0.9)
"""Four steps an epoch."""

BACK = [Rollback(epoch=2, step=6, rate_factor=0.5), Rollback(epoch=2, step=5, rate_factor=0.25)]


@pytest.fixture(autouse=True)
def fragile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loss of step 6 be infinite at the full rate, and that of step 5 at half of it."""
    factors = {6: 1.0, 5: 0.5}
    real = Step._take

    def take(self: Step, images: Any, labels: Any, number: int, count: int) -> Any:
        stats = real(self, images, labels, number, count)
        (rate, *_) = {group["lr"] for group in self.method.optimizer.param_groups}
        if rate == factors.get(number, 0) * expected_rate(number):
            stats = type(stats)(stats.loss * math.inf, stats.correct, stats.count, stats.trained)
        return stats

    monkeypatch.setattr(Step, "_take", take)


def spoil(monkeypatch: pytest.MonkeyPatch, fails: Callable[[int, float], bool]) -> None:
    """Let the loss of further steps, by their number and rate, be infinite."""
    real = Step._take

    def take(self: Step, images: Any, labels: Any, number: int, count: int) -> Any:
        stats = real(self, images, labels, number, count)
        factor = math.inf if fails(number, self.method.optimizer.param_groups[0]["lr"]) else 1
        return type(stats)(stats.loss * factor, stats.correct, stats.count, stats.trained)

    monkeypatch.setattr(Step, "_take", take)


def expected_rate(step: int) -> float:
    from flatnext.training import learning_rate

    return learning_rate(CONFIG.optimizer.learning_rate, CONFIG.schedule, step, 4, CONFIG.epochs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.fixture
def back(whole: Path) -> Path:
    """Return the folder of a run that went back twice."""
    if not whole.exists():
        train(CONFIG, whole, track=(), on_divergence="rollback")
    return whole


def test_by_default_it_stops_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not finite at step 6 \(epoch 2\): lower --lr"):
        train(CONFIG, tmp_path / "run", track=())
    assert json.loads((tmp_path / "run" / "failure.json").read_text())["step"] == 6
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("last", [3, 7])
def test_weights_that_a_step_leaves_not_finite_are_said_of_that_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    real = Step._take

    def take(self: Step, images: Any, labels: Any, number: int, count: int) -> Any:
        stats = real(self, images, labels, number, count)
        if number == last:
            next(self.model.parameters()).data.fill_(math.nan)
        return type(stats)(stats.loss.nan_to_num(0, 0), stats.correct, stats.count, stats.trained)

    monkeypatch.setattr(Step, "_take", take)
    with pytest.raises(InputError) as caught:
        train(CONFIG, tmp_path / "run", track=())
    left = "there is no checkpoint yet" if last == 3 else f"the last good checkpoint is in {tmp_path / 'run'}"
    assert f"at step {last} (epoch {(last + 1) // 4}): lower" in str(caught.value)
    assert str(caught.value).endswith(f"; {left}")
    assert json.loads((tmp_path / "run" / "failure.json").read_text())["step"] == last


def test_each_checkpoint_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One before the first epoch, one after each, and one of each return; the files are those that the next reads."""
    saved, told, real = [], [], run_state.save_checkpoint
    monkeypatch.setattr(run_state, "save_checkpoint", lambda *inputs: saved.append(real(*inputs)))

    def tell() -> None:
        checkpoint = read_checkpoint(tmp_path / "run")
        assert checkpoint is not None
        assert checkpoint.state is not None
        rollbacks = read_environment(tmp_path / "run" / "environment.json").rollbacks
        assert checkpoint.state["rollbacks"] == [dump(entry) for entry in rollbacks]
        told.append((checkpoint.step, len(rollbacks)))

    train(CONFIG, tmp_path / "run", track=(), on_divergence="rollback", after_checkpoint=tell)
    assert told == [(0, 0), (4, 0), (4, 1), (4, 2), (8, 2), (12, 2)]
    assert len(saved) == len(told)


def test_it_goes_back_and_on_with_half_the_rate_and_its_files_say_so(tmp_path: Path) -> None:
    said = Said()
    result = train(CONFIG, tmp_path / "run", track=(), on_divergence="rollback", display=said)
    assert result.last.epoch == 3
    back = [line for line in said.lines if "back to" in line]
    assert [line.partition(": ")[2] for line in back] == [
        f"the loss is not finite, or huge, at step {entry.step}: back to the beginning of epoch 2, and on with "
        f"{entry.rate_factor:g} times the learning rate ({number} of 3 times)"
        for number, entry in enumerate(BACK, 1)
    ]
    environment = read_environment(tmp_path / "run" / "environment.json")
    assert list(environment.rollbacks) == BACK
    assert environment.sessions[0].on_divergence == "rollback"
    rates = [line["learning_rate"] for line in measured(tmp_path / "run")]
    factors = [1.0, 0.25, 0.25]
    assert rates == [factor * expected_rate(step) for factor, step in zip(factors, (3, 7, 11), strict=True)]
    assert not (tmp_path / "run" / "checkpoints").exists()  # it was kept for that alone
    assert not (tmp_path / "run" / "failure.json").exists()


@pytest.mark.parametrize("step", [2, 5, 7, 9, 11])
def test_stopped_anywhere_it_ends_in_the_same_bits(back: Path, tmp_path: Path, step: int) -> None:
    stop = AtStep(step, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Stopped):
        train(CONFIG, tmp_path / "run", track=(), on_divergence="rollback", display=stop)
    train(CONFIG, tmp_path / "run", track=(), resume=True)  # it was told before what to do
    assert_same_run(tmp_path / "run", back)
    assert list(read_environment(tmp_path / "run" / "environment.json").rollbacks) == BACK


def test_stopped_after_a_return_to_the_start_it_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The return happens as the stop writes its checkpoint: no step is left, but the lower rate is."""
    spoil(monkeypatch, lambda number, rate: number == 1 and rate == expected_rate(1))
    run, whole = tmp_path / "run", tmp_path / "whole"
    stop = AtStep(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Stopped, match="stopped at step 0; go on with: flatnext train --resume"):
        train(CONFIG, run, track=(), on_divergence="rollback", display=stop)
    assert read_environment(run / "environment.json").rollbacks == (Rollback(epoch=1, step=1, rate_factor=0.5),)
    train(CONFIG, run, track=(), resume=True)
    train(CONFIG, whole, track=(), on_divergence="rollback")
    assert_same_run(run, whole)


def test_steps_that_were_taken_back_are_not_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint before the last is then of a later step."""
    monkeypatch.setattr("flatnext.training.trainer.CHECKPOINT_SECONDS", 0.0)
    first = []  # the steps 10, of which the first alone fails
    spoil(monkeypatch, lambda number, _: number == 10 and not first and not first.append(number))
    run = tmp_path / "run"

    def stop() -> None:
        if len(read_environment(run / "environment.json").rollbacks) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped, match="stopped at step 8"):
        train(CONFIG, run, track=(), on_divergence="rollback", after_checkpoint=stop)
    result = verify(run)
    assert (result.span.epoch, result.steps, result.same) == (1, (0, 4), True)


def test_told_within_an_epoch_it_keeps_none_of_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first, second = (AtStep(step, lambda: os.kill(os.getpid(), signal.SIGINT)) for step in (2, 1))
    with pytest.raises(Stopped):
        train(CONFIG, run, track=(), display=first)
    with pytest.raises(Stopped):
        train(CONFIG, run, track=(), resume=True, on_divergence="rollback", display=second)
    assert not (run / "checkpoints").exists()
    train(CONFIG, run, track=(), resume=True)
    assert list(read_environment(run / "environment.json").rollbacks) == BACK


@pytest.mark.parametrize("write", range(2, 21, 3))
def test_killed_at_a_write_it_ends_in_the_same_bits(back: Path, tmp_path: Path, write: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        kill_at_write(patch, write)
        with pytest.raises(Killed):
            train(CONFIG, tmp_path / "run", track=(), on_divergence="rollback")
    train(CONFIG, tmp_path / "run", track=(), resume=True, on_divergence="rollback")
    assert_same_run(tmp_path / "run", back)
    assert list(read_environment(tmp_path / "run" / "environment.json").rollbacks) == BACK


def test_after_the_third_time_it_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Step._take

    def take(self: Step, images: Any, labels: Any, number: int, count: int) -> Any:
        stats = real(self, images, labels, number, count)
        return type(stats)(stats.loss * (math.nan if number == 9 else 1), stats.correct, stats.count, stats.trained)

    monkeypatch.setattr(Step, "_take", take)
    with pytest.raises(InputError, match=r"step 9 \(epoch 3\) after 3 returns with a lower learning rate: lower --lr"):
        train(CONFIG, tmp_path / "run", track=(), on_divergence="rollback")
    assert len(RunFolder(tmp_path / "run").epochs()) == 2
    assert all(bool(torch.isfinite(value).all()) for value in weights(tmp_path / "run").values())


def test_weights_on_their_way_out_are_not_gone_back_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch whose loss is finite and huge is not the end that the next one goes back to."""
    real = Step._take

    def take(self: Step, images: Any, labels: Any, number: int, count: int) -> Any:
        stats = real(self, images, labels, number, count)
        rate = self.method.optimizer.param_groups[0]["lr"]
        huge = number == 3 and rate > 0.7 * expected_rate(3)
        return type(stats)(stats.loss * (1e9 if huge else 1), stats.correct, stats.count, stats.trained)

    monkeypatch.setattr(Step, "_take", take)
    train(CONFIG, tmp_path / "run", track=(), on_divergence="rollback")
    first, *_ = read_environment(tmp_path / "run" / "environment.json").rollbacks
    assert first == Rollback(epoch=1, step=3, rate_factor=0.5)


def test_it_can_be_made_again_and_replayed(back: Path, tmp_path: Path) -> None:
    assert rerun(back, tmp_path / "again").same
    train(CONFIG, tmp_path / "kept", track=(), on_divergence="rollback", keep_checkpoints="all")
    assert_same_run(tmp_path / "kept", back)
    for epoch in (1, 2, 3):
        assert verify(tmp_path / "kept", epoch=epoch).same


def test_it_is_made_again_with_its_returns_whatever_its_last_session_was_told(back: Path, tmp_path: Path) -> None:
    run = shutil.copytree(back, tmp_path / "run")
    environment = json.loads((run / "environment.json").read_text())
    environment["sessions"].append({**environment["sessions"][-1], "from_step": 8, "on_divergence": "stop"})
    (run / "environment.json").write_text(json.dumps(environment))
    assert rerun(run).same


def test_the_report_and_the_model_card_say_it(back: Path, tmp_path: Path) -> None:
    words = (
        "its loss was not finite, or huge, and it went on with 0.5 times from epoch 2 on, 0.25 times from epoch 2 on"
    )
    assert f"run has not had the learning rate of its recipe throughout: {words}." in remarks(read_study([back]))
    pack(back, "tiny-digits-back", tmp_path)
    card = (tmp_path / "tiny-digits-back.md").read_text()
    assert f"- **Learning rate**: not that of the recipe throughout: {words}\n- **Weights**" in card


def test_a_run_that_is_made_longer_keeps_its_returns_and_its_rate(tmp_path: Path) -> None:
    said = Said()
    train(CONFIG, tmp_path, on_divergence="rollback", track=())
    changes = {"epochs": 4, "schedule": "constant", "learning_rate": 0.01}
    train(CONFIG, tmp_path, resume=True, changes=changes, display=said, track=())
    assert list(read_environment(tmp_path / "environment.json").rollbacks) == BACK
    assert [line["learning_rate"] for line in measured(tmp_path)][3] == pytest.approx(0.0025)
    rates = "the learning rate is constant, at most 0.0025 (0.25 times 0.01, since the loss was not finite)"
    assert any(rates in line for line in said.lines)
