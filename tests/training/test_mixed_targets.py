"""Mixup and CutMix in a step, beside NumPy, and in a run."""

from __future__ import annotations

import contextlib
import os
import signal

import numpy as np
import pytest
import torch
from same_run import assert_same_run
from tiny import AtStep, tiny
from torch import nn

from flatnext import methods
from flatnext.config import Sgd
from flatnext.data.mixing import mix_labels
from flatnext.training import Stopped, train
from flatnext.training.step import Step


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("grad_accum_steps", [1, 3])
def test_a_step_on_soft_targets_is_numpys(smoothing, grad_accum_steps):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = methods.bind(Sgd(), model, optimizer, total_steps=1)
    step = Step(
        model=model,
        method=method,
        autocast=contextlib.nullcontext,
        label_smoothing=smoothing,
        grad_accum_steps=grad_accum_steps,
    )
    images = torch.randn(7, 3, 2, 2, dtype=torch.float64)
    labels = torch.arange(7) % 5
    targets = mix_labels(labels, labels.flip(0), 0.7, 5, torch.float64)
    weight, bias = (p.detach().numpy().copy() for p in model.parameters())
    flat = images.flatten(1).numpy()
    logits = flat @ weight.T + bias
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = exponents / exponents.sum(1, keepdims=True)
    wanted = targets.numpy() * (1 - smoothing) + smoothing / 5
    loss = -(wanted * np.log(probabilities)).sum()
    stats = step(images, targets, 0, 7)
    assert float(stats.loss) == pytest.approx(loss)
    assert int(stats.correct) == (logits.argmax(1) == labels.numpy()).sum()  # 0.7 is the larger share
    expected = weight - 0.1 * (probabilities - wanted).T @ flat / 7
    np.testing.assert_allclose(model[1].weight.detach().numpy(), expected, rtol=0, atol=1e-12)


def test_hard_targets_as_probabilities_take_the_same_step():
    found = []
    for soft in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        method = methods.bind(Sgd(), model, optimizer, total_steps=1)
        step = Step(model=model, method=method, autocast=contextlib.nullcontext, label_smoothing=0.1)
        labels = torch.tensor([0, 4, 2])
        targets = torch.eye(5, dtype=torch.float64)[labels] if soft else labels
        stats = step(torch.randn(3, 3, 2, 2, dtype=torch.float64), targets, 0, 3)
        found.append((float(stats.loss), int(stats.correct), model[1].weight.detach().clone()))
    assert found[0][:2] == pytest.approx(found[1][:2])
    torch.testing.assert_close(found[0][2], found[1][2], rtol=0, atol=1e-14)


RUNS = [
    tiny(mixup=0.2, cutmix=1.0, augment="trivial", flip="alternating", label_smoothing=0.1, ema=0.9),
    tiny("quick-amp", cutmix=1.0, augment="randaugment", grad_accum_steps=2, early_sizes=(4,)),
]


@pytest.fixture(scope="module", params=RUNS, ids=["sgd", "amp"])
def whole(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed") / "run"
    train(request.param, folder)
    return request.param, folder


@pytest.mark.parametrize("number", [2, 4, 7])
def test_a_mixed_run_resumes_to_the_bit(whole, tmp_path, number):
    config, folder = whole
    with pytest.raises(Stopped):
        train(config, tmp_path / "run", display=AtStep(number, lambda: os.kill(os.getpid(), signal.SIGINT)))
    train(config, tmp_path / "run", resume=True)
    assert_same_run(folder, tmp_path / "run")


def test_a_mixed_run_leaves_the_global_generators_alone(whole, tmp_path):
    config, folder = whole
    torch.manual_seed(5)
    np.random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    train(config, tmp_path / "run")
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])
    assert_same_run(folder, tmp_path / "run")
