"""The calibration that a finished run keeps with its weights."""

import pytest
import torch
from tiny import tiny

from flatnext import data
from flatnext.evaluation import load_predictor
from flatnext.evaluation.conformal import conformal, first_half
from flatnext.models import read_origin, read_weights
from flatnext.runs.folder import RunFolder
from flatnext.training import train
from flatnext.training.run_state import RunState


def origin(folder, checkpoint="last"):
    path = folder / f"{checkpoint}.safetensors"
    return read_origin(read_weights(path)[1], path)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    """Return a finished run with images held out for calibration."""
    folder = tmp_path_factory.mktemp("run") / "run"
    train(tiny(calibration=60, epochs=3), folder)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    train(tiny(), folder)
    return folder


def test_one_half_of_the_validation_images_calibrates_the_last_weights_and_none_the_best(plain):
    made = origin(plain).conformal
    config = origin(plain).config
    validation = data.partition(data.load("digits"), config.data).validation
    half = first_half(validation)
    logits = load_predictor(plain)(validation.images)
    fitted = (logits[half], validation.labels[half])
    expected = conformal(logits[~half], validation.labels[~half], made.source, fitted)
    assert made == expected
    assert made.images == int((~half).sum()) < 40
    assert origin(plain, "best").conformal is None
    assert origin(plain).image_size == 8


def test_images_held_out_for_it_calibrate_both(held_out):
    config = origin(held_out).config
    parts = data.partition(data.load("digits"), config.data)
    for checkpoint in ("last", "best"):
        made = origin(held_out, checkpoint).conformal
        predictor = load_predictor(held_out, checkpoint=checkpoint)
        fitted = (predictor(parts.validation.images), parts.validation.labels)
        logits = predictor(parts.calibration.images)
        assert made == conformal(logits, parts.calibration.labels, made.source, fitted)
        assert made.images == 60
    assert origin(held_out).data.calibration.counts == tuple(torch.bincount(parts.calibration.labels).tolist())


def test_without_held_out_images_there_is_none(tmp_path):
    train(tiny(validation=0, epochs=1), tmp_path / "run")
    assert origin(tmp_path / "run").conformal is None


@pytest.mark.parametrize("moment", [("add_conformal", 2), ("write_result", 1)])
def test_a_kill_while_it_is_written_changes_nothing_in_the_end(held_out, tmp_path, monkeypatch, moment):
    name, number = moment
    owner = RunState if name == "add_conformal" else RunFolder
    whole, calls = getattr(owner, name), []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return whole(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(calibration=60, epochs=3), tmp_path / "run")
    train(tiny(calibration=60, epochs=3), tmp_path / "run", resume=True)
    for checkpoint in ("last", "best"):
        (state, metadata), (expected, its) = (
            read_weights(folder / f"{checkpoint}.safetensors") for folder in (tmp_path / "run", held_out)
        )
        of_session = {"state", "state_sha256"}  # the state beside the weights holds the times that were measured
        assert {k: v for k, v in metadata.items() if k not in of_session} == {
            k: v for k, v in its.items() if k not in of_session
        }
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
