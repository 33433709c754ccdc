"""SAM and ASAM in the shape of an optimizer, beside the oracle and the rules."""

from __future__ import annotations

import inspect
import io
import re

import numpy as np
import oracle_methods
import pytest
import torch
from methods_table import bn_network, image_batches, oracle_batches, oracle_network, oracle_weights, same_bits, to_torch
from torch.nn import functional as F

import flatnext
from flatnext.errors import InputError
from flatnext.methods import AMP, ASAM, SAM

SGD = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}
CASES = [
    (SAM, flatnext.sam, {"rho": 0.05}),
    (SAM, flatnext.sam, {"rho": 0.0}),
    (ASAM, flatnext.asam, {"rho": 0.2, "eta": 0.1}),
]
cases = pytest.mark.parametrize(("kind", "rule", "settings"), CASES, ids=lambda value: getattr(value, "__name__", None))


def train(model, optimizer, batches):
    losses = []
    for images, labels in batches:

        def closure(images=images, labels=labels):
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            return loss

        losses.append(float(optimizer.step(closure)))
    return losses


def state_of(model, optimizer):
    states = optimizer.state_dict()["state"].values()
    return [*model.state_dict().values(), *(v for s in states for v in s.values() if isinstance(v, torch.Tensor))]


@cases
def test_25_steps_equal_the_oracle(kind, rule, settings):
    network, batches = oracle_network(oracle_weights(), "fp64"), oracle_batches(25)
    optimizer = kind(network.parameters(), **SGD, **settings)
    losses = train(network, optimizer, [to_torch(batch, "fp64") for batch in batches])
    expected, oracle_losses = oracle_methods.train(oracle_weights(), batches, rule.__name__, settings, **SGD)
    assert losses == pytest.approx(oracle_losses, abs=1e-9)
    for parameter, value in zip(network.parameters(), expected, strict=True):
        assert np.abs(parameter.detach().numpy() - value).max() < 1e-9


@cases
@pytest.mark.parametrize("base", [torch.optim.AdamW, torch.optim.RMSprop])
def test_other_base_optimizers_step_as_beside_the_rule(kind, rule, settings, base):
    models = [bn_network("fp64") for _ in range(2)]
    wrapped = kind(models[0].parameters(), lr=0.01, base_optimizer=base, weight_decay=0.1, **settings)
    beside = base(models[1].parameters(), lr=0.01, weight_decay=0.1)
    for images, labels in image_batches(5, "fp64"):
        train(models[0], wrapped, [(images, labels)])

        def closure(images=images, labels=labels):
            beside.zero_grad()
            F.cross_entropy(models[1](images), labels).backward()

        rule(closure, models[1].parameters(), models[1].buffers(), **settings)
        beside.step()
    assert same_bits(state_of(models[0], wrapped), state_of(models[1], beside))


@cases
def test_a_fresh_instance_with_its_state_goes_on_as_if_never_stopped(kind, rule, settings):
    batches, model = image_batches(6), bn_network()
    optimizer = kind(model.parameters(), **SGD, **settings)
    train(model, optimizer, batches[:3])
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    train(model, optimizer, batches[3:])
    kept = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    resumed = bn_network()
    fresh = kind(resumed.parameters(), lr=99.0, rho=9.0)  # the state has its own
    for each, state in zip((resumed, fresh), kept, strict=True):
        each.load_state_dict(state)
    train(resumed, fresh, batches[3:])
    assert same_bits(state_of(model, optimizer), state_of(resumed, fresh))


@pytest.mark.parametrize(
    ("kind", "settings"), [(SAM, (0.1,)), (ASAM, (0.3, 0.02)), (AMP, (0.5, 0.7, 2))], ids=["SAM", "ASAM", "AMP"]
)
def test_the_base_optimizer_may_come_second_as_elsewhere(kind, settings):
    batches, models = image_batches(2), [bn_network() for _ in range(3)]
    names = list(inspect.signature(kind).parameters)[2 : 2 + len(settings)]
    optimizers = [
        kind(models[0].parameters(), torch.optim.SGD, *settings, **SGD),
        kind(models[1].parameters(), torch.optim.SGD, **SGD, **dict(zip(names, settings, strict=True))),
        kind(models[2].parameters(), **SGD, **dict(zip(names, settings, strict=True))),
    ]
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, batches)
    states = [state_of(*pair) for pair in zip(models, optimizers, strict=True)]
    assert same_bits(states[0], states[2])
    assert same_bits(states[1], states[2])


def test_the_fourth_argument_is_whether_it_is_adaptive_as_elsewhere():
    made = SAM(bn_network().parameters(), torch.optim.AdamW, 0.2, False, lr=0.1)
    assert isinstance(made.base_optimizer, torch.optim.AdamW)
    assert made.setting("rho") == 0.2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda m: SAM(m, torch.optim.SGD, lr=0.1),
            "params is a Sequential: give the model's parameters: flatnext.",
        ),
        (lambda m: ASAM(torch.optim.SGD(m.parameters(), lr=0.1), m, rho=0.5), "params is a SGD: give the model's para"),
        (lambda m: SAM(m.parameters(), torch.optim.SGD(m.parameters(), lr=0.1)), "was made already: give its class"),
        (
            lambda m: SAM(m.parameters(), torch.optim.LBFGS, lr=0.1),
            "base_optimizer is LBFGS, whose step runs the closure itself: give one",
        ),
        (
            lambda m: SAM(m.parameters(), torch.optim.SGD, momentum=0.9),
            "lr is missing: flatnext.SAM(model.para",
        ),
        (
            lambda m: SAM(m.parameters(), torch.optim.SGD, adaptive=True, lr=0.1),
            "flatnext.ASAM(model.parameters(), ",
        ),
        (lambda m: SAM(m.parameters(), torch.optim.SGD, 0.05, True, lr=0.1), "flatnext.ASAM(model.parameters(), "),
        (lambda m: SAM(m.parameters(), torch.optim.SGD, 0.05, False, 3, lr=0.1), "3 is one argument too many"),
        (lambda m: AMP(m.parameters(), torch.optim.SGD, 0.5, 1.0, 1, False, 7, lr=0.1), "7 is one argument too many"),
        (lambda m: SAM(m.parameters(), lr=0.1).first_step(zero_grad=True), "in one step: optimizer.step(closure)"),
        (lambda m: SAM(m.parameters(), lr=0.1).second_step(), "in one step: optimizer.step(closure)"),
        (lambda m: ASAM(m.parameters(), lr=0.1).ascent_step(), "ASAM takes all its passes in one step"),
        (lambda m: AMP(m.parameters(), lr=0.1, epsilon=0.5).first_step(), "AMP takes all its passes in one step"),
    ],
)
def test_calls_of_other_implementations_are_answered_with_the_right_one(make, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        make(bn_network())
    assert "\n" not in str(caught.value)


def test_groups_have_their_own_rate_and_one_radius():
    model = bn_network()
    tensors = list(model.parameters())
    optimizer = SAM([{"params": tensors[:3]}, {"params": tensors[3:], "lr": 0.01}], lr=0.1)
    assert [(g["lr"], g["rho"]) for g in optimizer.param_groups] == [(0.1, 0.05), (0.01, 0.05)]
    with pytest.raises(InputError, match=r"rho is \[0.05, 0.1\]"):
        SAM([{"params": tensors[:3]}, {"params": tensors[3:], "rho": 0.1}], lr=0.1)
    optimizer.param_groups[1]["rho"] = 0.2
    with pytest.raises(InputError, match="one for all groups"):
        train(model, optimizer, image_batches(1))


@pytest.mark.parametrize("kind", [SAM, ASAM])
def test_what_cannot_work_is_one_line(kind):
    model = bn_network()
    with pytest.raises(InputError, match="rho is -1"):
        kind(model.parameters(), lr=0.1, rho=-1.0)
    with pytest.raises(InputError, match=f"{kind.__name__} needs a closure"):
        kind(model.parameters(), lr=0.1).step()
    with pytest.raises(InputError, match=r"call loss.backward\(\)"):
        kind(model.parameters(), lr=0.1).step(lambda: None)
    assert getattr(flatnext, kind.__name__) is kind
