"""The moving average of the weights, and images that grow over the epochs, in a run and beside oracles."""

from __future__ import annotations

import copy
import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from same_run import assert_same_run, weights
from tiny import AtStep, tiny
from torch import nn

from flatnext import evaluation
from flatnext.config import Config, recipe
from flatnext.device import resolve_device
from flatnext.errors import InputError
from flatnext.evaluation import evaluate
from flatnext.processes import ALONE
from flatnext.runs.folder import RunFolder
from flatnext.training import RunState, Stopped, load_data, train
from flatnext.training.average import WeightAverage, decay_after

GROWING = tiny(epochs=3, early_sizes=(4, 4), crop_padding=2, cutout=4, ema=0.9)


def small_network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def test_the_average_is_numpys():
    torch.manual_seed(0)
    network = small_network().double()
    average = WeightAverage(network, 0.95)
    expected = None
    for seen in range(300):
        with torch.no_grad():
            for p in network.parameters():
                p.add_(torch.randn_like(p))
        network(torch.randn(5, 3, 4, 4, dtype=torch.float64))  # moves batch norm's statistics
        average.update(seen)
        new = {k: v.numpy().copy() for k, v in network.state_dict().items()}
        decay = min(0.95, (1 + seen) / (10 + seen)) if seen else 0
        expected = new if expected is None else {k: decay * expected[k] + (1 - decay) * new[k] for k in new}
    for name, value in average.model.state_dict().items():
        if value.is_floating_point():
            np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-12, atol=1e-12)
        else:
            assert int(value) == 300
    assert not average.model.training
    assert not any(p.requires_grad for p in average.model.parameters())


def test_the_average_keeps_nothing_of_before_it_began():
    network = small_network()
    average = WeightAverage(network, 0.999)
    average.update(0)
    with torch.no_grad():
        network[0].weight.fill_(3.0)
    average.update(0)
    assert torch.equal(average.model[0].weight, network[0].weight)


def test_the_average_is_not_biased_by_its_start():
    # The share of the first weights in the average, after as many steps as an average of decay 0.999 is long.
    share = np.prod([decay_after(seen, 0.999) for seen in range(1, 1001)])
    assert share < 1e-15
    assert 0.999**1000 > 0.36
    assert decay_after(10**6, 0.999) == 0.999


def test_a_runs_average_is_that_of_its_steps_since_the_size_changed(tmp_path):
    config, seen = tiny(epochs=3, early_sizes=(4,), ema=0.8, crop_padding=0), []
    partition = load_data(config, tmp_path)
    run = RunState(config, RunFolder(tmp_path / "run"), partition, resolve_device("cpu"), ALONE)
    assert [run.loader.first_epoch_at_size(epoch) for epoch in range(3)] == [0, 1, 1]
    states = []
    for epoch in range(3):
        for step in range(len(run.loader)):
            with torch.no_grad():
                for p in run.model.parameters():
                    p.add_(0.01 * (1 + epoch + step))
            run.epoch, run.step_in_epoch = epoch, step + 1
            run.update_average()
            states.append(copy.deepcopy(run.model.state_dict()))
            seen.append(epoch)
    expected = WeightAverage(run.model, 0.8)
    for number, state in enumerate(states[4:]):
        run.model.load_state_dict(state)
        expected.update(number)
    for name, value in run.evaluated.state_dict().items():
        assert torch.equal(value, expected.model.state_dict()[name])


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grown") / "run"
    return train(GROWING, folder), folder


@pytest.mark.parametrize("number", [1, 4, 6, 8, 9, 11])
def test_growing_images_and_average_resume_to_the_bit(grown, tmp_path, number):
    with pytest.raises(Stopped):
        train(GROWING, tmp_path / "run", display=AtStep(number, lambda: os.kill(os.getpid(), signal.SIGINT)))
    rest = AtStep(0, None)
    train(GROWING, tmp_path / "run", resume=True, display=rest)
    assert rest.steps == 12 - number
    assert_same_run(grown[1], tmp_path / "run")


def test_what_is_stored_and_scored_is_the_average(grown, tmp_path):
    result, folder = grown
    raw = tmp_path / "raw"
    train(GROWING.override({"ema": 0.0}), raw)
    assert not torch.equal(weights(folder)["conv1.weight"], weights(raw)["conv1.weight"])
    test = load_data(GROWING, tmp_path).test
    logits = evaluation.load_predictor(folder, device="cpu")(test.images)
    assert result.last.test.loss == evaluation.score(logits, test.labels).loss
    assert evaluate(folder)["accuracy"] == result.last.test.accuracy


def test_the_raw_weights_are_trained_as_without_an_average(tmp_path):
    kept = {}
    for ema in (0.0, 0.9):
        folder = tmp_path / str(ema)
        config = tiny(ema=ema)
        with pytest.raises(Stopped):
            train(config, folder, display=AtStep(7, lambda: os.kill(os.getpid(), signal.SIGINT)))
        (path,) = folder.glob("state-000000007-*.pt")
        state = torch.load(path, weights_only=True)
        kept[ema] = state["weights"] if ema else safetensors.torch.load_file(folder / "last.safetensors")
    assert all(torch.equal(kept[0.0][name], value) for name, value in kept[0.9].items())


def test_a_state_without_the_raw_weights_is_one_line(tmp_path):
    with pytest.raises(Stopped):
        train(tiny(ema=0.9), tmp_path, display=AtStep(5, lambda: os.kill(os.getpid(), signal.SIGINT)))
    (path,) = tmp_path.glob("state-000000005-*.pt")
    (tmp_path / "previous.safetensors").unlink()
    state = torch.load(path, weights_only=True)
    for broken in ({k: v for k, v in state.items() if k != "weights"}, {**state, "weights": {"a": torch.ones(1)}}):
        torch.save(broken, path)
        with pytest.raises(InputError, match="damaged"):
            train(tiny(ema=0.9), tmp_path, resume=True)


def test_metrics_are_true_with_growing_images(grown):
    result, folder = grown
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["images_per_second"] == pytest.approx(100 / line["train_seconds"])
    assert result.images_per_second == pytest.approx(300 / sum(line["train_seconds"] for line in lines))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"early_sizes": (4, 4, 4)}, "early_sizes has 3 epochs: there are 2"),
        ({"early_sizes": (5,)}, "early_sizes has 5: give multiples of 2"),
        ({"early_sizes": (4, 16)}, "early_sizes has 16"),
        ({"early_sizes": ()}, "early_sizes is ()"),
        ({"early_sizes": (0,)}, "early_sizes is (0,)"),
        ({"early_sizes": (2,), "batch_size": 33}, "batch norm needs two"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"ema": -0.1}, "ema is -0.1"),
    ],
)
def test_bad_settings_are_one_line_and_leave_nothing(tmp_path, changes, message):
    with pytest.raises(InputError) as caught:
        train(tiny(**changes), tmp_path / "run")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_settings_survive_json():
    config = recipe("sgd").override({"early_sizes": (16, 24), "ema": 0.999, "schedule": "linear"})
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert config.data == replace(recipe("sgd").data, early_sizes=(16, 24))
