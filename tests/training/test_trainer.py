"""Training a run: what it leaves, and what it measures."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from same_run import assert_same_run, measured, weights
from tiny import AtStep, tiny

from flatnext.cli import main
from flatnext.errors import InputError
from flatnext.evaluation.evaluate import evaluate
from flatnext.runs.folder import RunFolder
from flatnext.schema import dump
from flatnext.training import RunState, load_data, train, trainer
from flatnext.training.class_weights import class_weights
from flatnext.training.trainer import make_step


def test_evaluation_every_few_epochs_and_after_the_last(tmp_path):
    train(tiny(epochs=5, evaluate_every=2), tmp_path)
    lines = measured(tmp_path)
    assert [line["epoch"] for line in lines if line["validation_accuracy"] is not None] == [2, 4, 5]
    assert [line["epoch"] for line in lines if line["test_loss"] is not None] == [2, 4, 5]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["best"]["epoch"] in (2, 4, 5)
    train(tiny(epochs=5), tmp_path / "each")
    each = measured(tmp_path / "each")
    assert [line["train_loss"] for line in lines] == [line["train_loss"] for line in each]  # it changes no weight


def test_a_run_leaves_its_folder(whole):
    config, folder = whole
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "result.json",
        "last.safetensors",
        "best.safetensors",
        "tensorboard",
        ".lock",
    }
    assert RunFolder(folder).config() == config
    lines = measured(folder)
    assert [line["epoch"] for line in lines] == [1, 2]
    assert [line["step"] for line in lines] == [4, 8]
    result = json.loads((folder / "result.json").read_text())
    assert result["last"]["epoch"] == 2
    assert result["last"]["test"]["accuracy"] == lines[-1]["test_accuracy"]
    assert result["last"]["validation"]["accuracy"] == lines[-1]["validation_accuracy"]
    best = max(lines, key=lambda line: (line["validation_accuracy"], -line["validation_loss"]))
    assert result["best"]["epoch"] == best["epoch"]
    assert result["best"]["test"]["accuracy"] == best["test_accuracy"]
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["train_images"] == 100
    assert environment["test_images"] == 360
    assert list((folder / "tensorboard").iterdir())


def test_best_is_the_weights_that_its_score_is_of(tmp_path):
    config = tiny(epochs=4, learning_rate=0.05, warmup_epochs=0.0, schedule="constant", seed=2)
    result = train(config, tmp_path / "run")
    assert result.best.epoch < 4  # else the test shows nothing: choose another seed
    with safetensors.safe_open(tmp_path / "run" / "best.safetensors", "pt") as file:
        assert int(file.metadata()["step"]) == 4 * result.best.epoch
    for name, checkpoint in (("last", result.last), ("best", result.best)):
        assert evaluate(tmp_path / "run", checkpoint=name)["confusion"] == dump(checkpoint.test.confusion)


def test_bad_input_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="parameter_budget"):
        train(tiny(parameter_budget=1000), tmp_path / "run")
    with pytest.raises(InputError, match="train_images"):
        train(tiny(train_images=10**6), tmp_path / "run")
    with pytest.raises(InputError, match="device"):
        train(tiny(), tmp_path / "run", device="abacus")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()], ids=repr)
def test_a_run_that_fails_before_its_first_step_leaves_no_folder(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("flatnext.training.trainer.make_step", fail)
    mine = tmp_path / "mine"
    mine.mkdir()
    for folder in (tmp_path / "runs" / "new", mine):
        with pytest.raises(type(error)):
            train(tiny(), folder)
        assert not list(tmp_path.rglob("*.json"))
    assert list(tmp_path.iterdir()) == [mine]  # it was there before
    monkeypatch.undo()
    train(tiny(), tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(InputError, match="missing"):  # the state of a finished run is gone
        train(tiny(), tmp_path / "run", resume=True)
    assert weights(tmp_path / "run")


def test_every_command_survives_a_run_that_diverges_but_for_its_end(tmp_path, capsys):
    """The losses of its steps are finite, and those of its evaluation are not."""
    config = tiny(learning_rate=100.0, warmup_epochs=0, epochs=1)
    train(config, tmp_path / "run")
    with safetensors.safe_open(tmp_path / "run" / "last.safetensors", "pt") as file:
        assert all(bool(file.get_tensor(name).isfinite().all()) for name in file.keys())  # noqa: SIM118
    text = "".join(path.read_text() for path in (tmp_path / "run").glob("*.json*"))
    assert "NaN" not in text
    assert "Infinity" not in text
    for command in (["evaluate"], ["train", "--resume"], ["report"]):
        assert main([*command, str(tmp_path / "run")]) == 0
    assert "accuracy" in capsys.readouterr().out


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    config = tiny(learning_rate=1e30, warmup_epochs=0, epochs=3, schedule="steps", milestones=(1,), gamma=1e-3)
    with pytest.raises(InputError, match=r"not finite at step \d+ \(epoch \d\).*--lr"):
        train(config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "failure.json").read_text())["step"] < 12
    assert not (tmp_path / "run" / "result.json").exists()


def test_the_weights_are_a_function_of_the_config_and_not_of_global_state(tmp_path):
    torch.manual_seed(123)
    train(tiny(), tmp_path / "a")
    torch.rand(7)
    state = torch.get_rng_state()
    train(tiny(), tmp_path / "b")
    assert torch.equal(state, torch.get_rng_state())
    assert_same_run(tmp_path / "a", tmp_path / "b")
    train(tiny(seed=1), tmp_path / "c")
    assert not torch.equal(weights(tmp_path / "a")["conv1.weight"], weights(tmp_path / "c")["conv1.weight"])


def test_no_validation_split_means_no_best(tmp_path):
    result = train(tiny(validation=0, test_curve=False), tmp_path / "run")
    assert result.best is None
    assert not (tmp_path / "run" / "best.safetensors").exists()
    assert measured(tmp_path / "run")[0]["test_accuracy"] is None


CPU = torch.device("cpu")


def loaded(folder, **changes):
    """Return a run of a config that has loaded nothing."""
    config = tiny(**changes)
    return RunState(config, RunFolder(folder), load_data(config, folder), CPU)


def test_a_step_of_a_run_is_what_its_config_says(tmp_path):
    losses = {"label_smoothing": 0.2, "clip_norm": 0.5, "class_weights": "balanced", "precision": "bf16"}
    run = loaded(tmp_path, method="adversarial", **losses, seed=7, epochs=3, grad_accum_steps=2)
    step = make_step(run)
    assert (step.label_smoothing, step.clip_norm, step.grad_accum_steps) == (0.2, 0.5, 2)
    assert torch.equal(step.class_weights, class_weights(run.config, run.partition))
    assert (step.method.seed, step.method.total_steps, run.loader.seed) == (7, 12, 7)
    assert step.method.normalization == run.partition.normalization
    with step.autocast():
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("changes", [{"label_smoothing": 0.3}, {"clip_norm": 0.01}, {"class_weights": "9" + ",1" * 9}])
def test_a_setting_of_the_loss_changes_what_is_learned(tmp_path, changes):
    plain, other = (train(tiny(epochs=1, **each), tmp_path / f"{len(each)}", track=()) for each in ({}, changes))
    assert plain.last.test.loss != other.last.test.loss


def test_seeds_differ_in_the_order_of_the_images(tmp_path):
    orders = [loaded(tmp_path, seed=seed).loader.draws(0).order for seed in (0, 1)]
    assert not torch.equal(*orders)


def test_checkpoints_by_the_clock(tmp_path, monkeypatch):
    clock, saved, save = itertools.count(0, 100), [], RunState.save
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    monkeypatch.setattr(RunState, "save", lambda run: (saved.append(run.step), save(run)))
    train(tiny(epochs=1, batch_size=8), tmp_path / "run", track=())
    assert saved == [3, 6, 9, 12, 13]  # every 300 seconds, and at the end of the epoch


def test_a_loss_that_is_not_finite_ends_an_epoch_early(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "CHECK_STEPS", 2)
    steps, config = AtStep(0, None), tiny(epochs=1, batch_size=8, learning_rate=1e30, warmup_epochs=0)
    with pytest.raises(InputError, match="not finite at step"):
        train(config, tmp_path / "run", track=(), display=steps)
    assert steps.steps < 4
