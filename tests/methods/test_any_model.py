"""The methods with frozen, shared and unused parameters, parameter groups, and compiled models."""

import functools

import pytest
import torch
from methods_table import (
    FULL,
    METHODS,
    Case,
    bn_network,
    cases,
    image_batches,
    make_step,
    same_bits,
    take,
    watch,
)
from torch import nn
from torch.nn import functional as F


@cases
def test_frozen_and_unused_parameters_stay_and_do_no_harm(case):
    model, fixed = bn_network(case.precision), bn_network(case.precision)
    model[0].weight.requires_grad_(False)
    model.register_parameter("unused", nn.Parameter(torch.ones(3)))
    # The same network, in which the frozen weight is no parameter at all.
    weight = fixed[0].weight.detach().clone()
    del fixed[0].weight
    fixed[0].register_buffer("weight", weight)
    frozen = model[0].weight.clone()
    steps = make_step(model, case), make_step(fixed, case)
    seen = watch(model)
    for number, batch in enumerate(image_batches(2, case.precision)):
        for step in steps:
            take(step, batch, number * FULL)
    assert torch.equal(model[0].weight, frozen)
    assert len(seen) >= 2
    assert all(torch.equal(weights[1], frozen) for weights, _ in seen)  # [0] is the unused one
    assert torch.equal(model.unused, torch.ones(3))
    if case.method.name != "rmp":  # noise is drawn a parameter, in order, whether it is used or not
        own = dict(model.named_parameters())
        for name, parameter in fixed.named_parameters():
            assert torch.equal(parameter, own[name])


class Tied(nn.Module):
    """A network that uses one weight twice: one parameter of two modules, or one that is used two times."""

    def __init__(self, modules):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first = nn.Linear(48, 48)
            self.second = nn.Linear(48, 48, bias=False) if modules else None
            self.norm = nn.LayerNorm(48)
            self.last = nn.Linear(48, 3)
        if modules:
            self.second.weight = self.first.weight

    def forward(self, x):
        x = self.first(x.flatten(1))
        x = F.linear(x, self.first.weight) if self.second is None else self.second(x)
        return self.last(self.norm(x))


@cases
def test_shared_parameters_are_perturbed_once(case):
    models = [Tied(modules).to(bn_network(case.precision)[0].weight.dtype) for modules in (True, False)]
    with torch.no_grad():
        for theirs, ours in zip(models[1].parameters(), models[0].parameters(), strict=True):
            theirs.copy_(ours)
    for model in models:
        step = make_step(model, case)
        for number, batch in enumerate(image_batches(2, case.precision)):
            take(step, batch, number * FULL)
    assert same_bits(*(model.parameters() for model in models))


@cases
def test_several_groups_equal_one(case):
    models = [bn_network(case.precision) for _ in range(2)]
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}
    tensors = [list(model.parameters()) for model in models]
    optimizers = [
        torch.optim.SGD(tensors[0], **options),
        torch.optim.SGD([{"params": tensors[1][3:]}, {"params": tensors[1][:3]}], **options),
    ]
    for model, optimizer in zip(models, optimizers, strict=True):
        step = make_step(model, case, optimizer=optimizer)
        for number, batch in enumerate(image_batches(2, case.precision)):
            take(step, batch, number * FULL)
    assert same_bits(*tensors)


@functools.cache
def compiled_network(precision, grad_accum_steps):
    torch.compiler.reset()
    return torch.compile(bn_network(precision), backend="eager")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, which it hides
@cases
def test_a_compiled_model_trains_as_it_does_otherwise(case):
    compiled, model = compiled_network(case.precision, case.grad_accum_steps), bn_network(case.precision)
    compiled._orig_mod.load_state_dict(model.state_dict())
    for each in (model, compiled):
        step = make_step(each, case)
        for number, batch in enumerate(image_batches(2, case.precision)):
            take(step, batch, number * FULL)
    assert same_bits(model.state_dict().values(), compiled._orig_mod.state_dict().values())


@functools.cache
def inductor_network():
    torch.compiler.reset()
    return torch.compile(bn_network("fp32"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # inductor's own
@pytest.mark.parametrize("method", METHODS[1:], ids=lambda m: str(Case(m, "fp32")))
def test_a_model_compiled_by_inductor_trains_as_it_does_otherwise(method):
    model, compiled = bn_network("fp32"), inductor_network()
    compiled._orig_mod.load_state_dict(model.state_dict())
    for each in (model, compiled):
        step = make_step(each, Case(method, "fp32"))
        for number, batch in enumerate(image_batches(2)):
            take(step, batch, number * FULL)
    for a, b in zip(model.state_dict().values(), compiled._orig_mod.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
