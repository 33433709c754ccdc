"""The metrics of a run as its trackers have them, against `metrics.jsonl`. What is not installed is skipped."""

import argparse
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from flatnext.cli import main
from flatnext.cli.flags import add_track_flag
from flatnext.config import recipe
from flatnext.errors import InputError
from flatnext.runs.folder import RunFolder
from flatnext.training import train
from flatnext.training.trackers import TRACKERS, check_trackers, scalars, tracked

QUICK = recipe("quick").override({"train_images": 100, "validation": 40, "epochs": 2, "batch_size": 50})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in a folder that is a study's."""
    study = tmp_path_factory.mktemp("studies") / "mine"
    folder = study / "quick" / "seed-0"
    train(QUICK, folder, track=())
    (study / "study.json").write_text(json.dumps({"recipes": ["quick"], "seeds": [0]}))
    return folder


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def follow(folder: Path, name: str, *, again: int = 0) -> None:
    """Track a run's epochs as they end; `again`: first the epochs up to this one, and then as a resumed run."""
    run = RunFolder(folder)
    epochs = run.epochs()
    if again:
        run._write_epochs([])
        with tracked([name], run, QUICK) as trackers:
            for epoch in epochs[:again]:
                trackers[0].add(epoch)
    run._write_epochs(epochs[:again])
    with tracked([name], run, QUICK) as trackers:
        for epoch in epochs[again:]:
            trackers[0].add(epoch)
    run._write_epochs(epochs)


def test_scalars_are_named_by_what_and_of_which_images(run: Path) -> None:
    (epoch, _), (line, _) = RunFolder(run).epochs(), lines(run)
    values = scalars(epoch)
    assert values["loss/train"] == line["train_loss"]
    assert values["accuracy/validation"] == line["validation_accuracy"]
    assert values["run/learning_rate"] == line["learning_rate"]
    assert not {"epoch", "step"} & values.keys()
    assert "loss/test" not in scalars(replace(epoch, test_loss=None))


@pytest.mark.parametrize("again", [0, 1])
def test_tensorboard_has_every_epoch_once(run: Path, again: int) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    follow(run, "tensorboard", again=again)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    points = [(event.step, event.value) for event in events.Scalars("loss/train")]
    assert points == [(line["step"], pytest.approx(line["train_loss"])) for line in lines(run)]


@pytest.mark.parametrize("again", [0, 1])
def test_mlflow_has_every_epoch_once_and_the_study_as_experiment(
    run: Path, again: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(run.parent.parent, tmp_path / "mine")
    run, database = tmp_path / "mine/quick/seed-0", tmp_path / "mine/mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        follow(run, "mlflow", again=again)
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=f"sqlite:///{database}")
        experiment = client.get_experiment_by_name("mine")
        (tracked_run,) = client.search_runs([experiment.experiment_id])
        history = client.get_metric_history(tracked_run.info.run_id, "accuracy/validation")
    assert [(m.step, m.value) for m in history] == [(line["step"], line["validation_accuracy"]) for line in lines(run)]
    assert (tracked_run.info.run_name, tracked_run.info.status) == ("quick-seed-0", "FINISHED")
    assert tracked_run.data.params["learning_rate"] == str(QUICK.optimizer.learning_rate)


def test_wandb_writes_offline_and_groups_a_study(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        follow(run, "wandb")
    (folder,) = (run.parent.parent / "wandb").glob("offline-run-*")
    content = next(folder.glob("*.wandb")).read_bytes()
    for text in (b"loss/train", b"mine", b"quick-seed-0"):
        assert text in content


def test_the_flag_names_all_trackers() -> None:
    parser = argparse.ArgumentParser()
    add_track_flag(parser)
    (choices,) = (action.choices for action in parser._actions if "--track" in action.option_strings)
    assert set(choices) == {*TRACKERS, "none"}


def test_a_tracker_that_is_unknown_or_not_installed_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="unknown tracker 'tensorbord': did you mean tensorboard"):
        check_trackers(["tensorbord"])
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    command = ["train", "--recipe", "quick", "--output", str(tmp_path / "run"), "--track", "wandb"]
    assert main(command) == 2
    message = "this needs wandb, which is not installed; in the clone of FlatNeXt: pip install '.[wandb]'"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
