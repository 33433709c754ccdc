"""The methods against an oracle in NumPy, over one table of settings."""

import numpy as np
import oracle_methods
import pytest
import pytorch_optimizer
import torch
from methods_table import (
    METHODS,
    TABLE,
    Case,
    cases,
    make_step,
    oracle_batches,
    oracle_network,
    oracle_options,
    oracle_weights,
    take,
    to_torch,
)
from torch.nn import functional as F

from flatnext.config import Optimizer
from flatnext.config.method import Asam, Sam
from flatnext.training import make_optimizer


def test_the_oracles_gradients_are_those_of_differences():
    weights, (x, y) = oracle_weights(), oracle_batches(1)[0]
    _, gradients, of_images = oracle_methods.forward_backward(weights, x, y)
    for tensor, gradient in zip([*weights, x], [*gradients, of_images], strict=True):
        for index in [0, tensor.size // 2, tensor.size - 1]:
            flat, losses = tensor.reshape(-1), []
            for change in (1e-5, -1e-5):
                flat[index] += change
                losses.append(oracle_methods.forward_backward(weights, x, y)[0])
                flat[index] -= change
            assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(gradient.reshape(-1)[index], abs=1e-8)


@cases
def test_steps_equal_the_oracle(case):
    steps, tolerance = {"fp64": (25, 1e-9), "fp32": (25, 1e-4), "bf16": (3, 1e-2)}[case.precision]
    weights, batches = oracle_weights(), oracle_batches(steps, sizes=(12, 12, 7))
    network = oracle_network(weights, case.precision)
    step = make_step(network, case, total_steps=steps)
    losses = []
    for number, batch in enumerate(batches):
        stats = take(step, to_torch(batch, case.precision), number)
        losses.append(float(stats.loss) / stats.count)
    expected, expected_losses = oracle_methods.train(
        weights, batches, case.method.name, case.settings(), **oracle_options(case)
    )
    for parameter, value in zip(network.parameters(), expected, strict=True):
        assert np.abs(parameter.detach().numpy() - value).max() < tolerance
    assert np.abs(np.array(losses) - expected_losses).max() < tolerance


@pytest.mark.parametrize("case", [c for c in TABLE if c.precision == "bf16" and c.method.name != "sgd"], ids=str)
def test_in_bf16_a_method_changes_what_it_changes_in_the_oracle(case):
    """A method changes the weights by less than bf16 rounds them: what it changes is compared, and not the weights."""
    batches = oracle_batches(3, sizes=(12, 12, 7))
    found, expected = [], []
    for each in (case, case.plain()):
        network = oracle_network(oracle_weights(), case.precision)
        step = make_step(network, each, total_steps=3)
        for number, batch in enumerate(batches):
            take(step, to_torch(batch, case.precision), number)
        found.append(np.concatenate([p.detach().numpy().ravel() for p in network.parameters()]))
        options = oracle_options(each)
        weights, _ = oracle_methods.train(oracle_weights(), batches, each.method.name, each.settings(), **options)
        expected.append(np.concatenate([value.ravel() for value in weights]))
    change, oracles = found[0] - found[1], expected[0] - expected[1]
    assert np.linalg.norm(change - oracles) < 0.75 * np.linalg.norm(oracles)  # without the method it is 1


OPTIMIZERS = {
    "plain": Optimizer(learning_rate=0.2, momentum=0.0, nesterov=False, weight_decay=0.0),
    "momentum": Optimizer(learning_rate=0.1, momentum=0.9, nesterov=False, weight_decay=1e-2, decay_all=True),
    "nesterov": Optimizer(learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=0.0),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS[1:], ids=lambda m: str(Case(m)))
def test_every_optimizer_equals_the_oracle(method, optimizer):
    weights, batches = oracle_weights(), oracle_batches(10)
    network = oracle_network(weights, "fp64")
    step = make_step(network, Case(method), optimizer=make_optimizer(network, optimizer), total_steps=10)
    for number, batch in enumerate(batches):
        take(step, to_torch(batch, "fp64"), number)
    options = oracle_options(Case(method)) | {
        "lr": optimizer.learning_rate,
        "momentum": optimizer.momentum,
        "nesterov": optimizer.nesterov,
        "weight_decay": optimizer.weight_decay,
    }
    expected, _ = oracle_methods.train(weights, batches, method.name, vars(method), **options)
    for parameter, value in zip(network.parameters(), expected, strict=True):
        assert np.abs(parameter.detach().numpy() - value).max() < 1e-9


@pytest.mark.parametrize("method", [Sam(rho=0.05), Asam(rho=0.2, eta=0.0)], ids=["sam", "asam"])
def test_25_steps_equal_another_library(method):
    batches = [to_torch(batch, "fp64") for batch in oracle_batches(25)]
    ours, theirs = (oracle_network(oracle_weights(), "fp64") for _ in range(2))
    options = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}
    step = make_step(ours, Case(method), optimizer=torch.optim.SGD(ours.parameters(), **options))
    adaptive = isinstance(method, Asam)
    optimizer = pytorch_optimizer.SAM(
        theirs.parameters(), torch.optim.SGD, rho=method.rho, adaptive=adaptive, **options
    )
    for number, batch in enumerate(batches):
        take(step, batch, number)

        def closure(batch=batch):
            optimizer.zero_grad()
            F.cross_entropy(theirs(batch[0]), batch[1]).backward()

        closure()  # theirs wants the first gradient to be there
        optimizer.step(closure)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (a - b).abs().max() < 1e-7  # theirs takes the norm in single precision
