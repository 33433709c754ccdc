"""The contract of the methods, over one table of settings, against the NumPy oracle."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import math
from dataclasses import replace

import numpy as np
import oracle_methods
import pytest
import torch
from methods_table import (
    METHODS,
    TABLE,
    Case,
    bits,
    bn_network,
    image_batches,
    make_step,
    oracle_batches,
    oracle_network,
    oracle_options,
    oracle_weights,
    same_bits,
    take,
    to_torch,
)
from torch import nn
from torch.nn import functional as F

import flatnext
from flatnext import methods
from flatnext.config import METHODS as CONFIGS
from flatnext.config import Amp, Optimizer, Sgd
from flatnext.config.method import Adversarial, Asam, MomentumAmp, Sam
from flatnext.errors import InputError
from flatnext.training import make_optimizer

cases = pytest.mark.parametrize("case", TABLE, ids=str)
perturbing = pytest.mark.parametrize("case", [c for c in TABLE if not isinstance(c.method, Sgd)], ids=str)
FULL = 6  # a step at which every row of the table perturbs, whatever its interval and schedule


def passes(method):
    """Return how many passes a step that perturbs takes, as the methods' documentation says."""
    if isinstance(method, (Sgd, MomentumAmp)):
        return 1
    return 1 + getattr(method, "inner_iter", 1)


def started(case, **options):
    """Return a network with batch norm that has taken a step, so that there is momentum, and its `Step`."""
    model = bn_network(case.precision)
    step = make_step(model, case, **options)
    take(step, image_batches(1, case.precision)[0], 0)
    return model, step


def watch(model):
    """Return a list that gets the weights and the images of every forward pass."""
    seen = []
    model.register_forward_pre_hook(lambda module, x: seen.append((bits(module.parameters()), x[0].detach().clone())))
    return seen


def saved(content):
    """Return what comes back from a file."""
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# Against the oracle


def test_the_table_has_every_method_and_the_oracle_too():
    assert {m.name for m in METHODS} == set(CONFIGS) == set(oracle_methods.RULES)
    assert set(methods.RULES) == set(CONFIGS)


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
def test_25_steps_equal_the_oracle(case):
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
    other = pytest.importorskip("pytorch_optimizer")
    batches = [to_torch(batch, "fp64") for batch in oracle_batches(25)]
    ours, theirs = (oracle_network(oracle_weights(), "fp64") for _ in range(2))
    options = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}
    step = make_step(ours, Case(method), optimizer=torch.optim.SGD(ours.parameters(), **options))
    adaptive = isinstance(method, Asam)
    optimizer = other.SAM(theirs.parameters(), torch.optim.SGD, rho=method.rho, adaptive=adaptive, **options)
    for number, batch in enumerate(batches):
        take(step, batch, number)

        def closure(batch=batch):
            optimizer.zero_grad()
            F.cross_entropy(theirs(batch[0]), batch[1]).backward()

        closure()  # theirs wants the first gradient to be there
        optimizer.step(closure)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (a - b).abs().max() < 1e-7  # theirs takes the norm in single precision


# Limits


OFF = [
    pytest.param(case, {name: value}, id=f"{case}-without-{name}")
    for case in TABLE
    for name, value in (("epsilon", 0.0), ("rho", 0.0), ("inner_lr", 0.0), ("inner_iter", 0))
    if name in vars(case.method)
]


@pytest.mark.parametrize(("case", "off"), OFF)
def test_without_a_perturbation_it_is_plain_training_to_the_bit(case, off):
    plain, perturbed = bn_network(case.precision), bn_network(case.precision)
    steps = make_step(plain, case.plain()), make_step(perturbed, case.but(**off))
    for number, batch in enumerate(image_batches(3, case.precision)):
        stats = [take(step, batch, number) for step in steps]
        assert torch.equal(stats[0].loss, stats[1].loss)
    assert same_bits(plain.state_dict().values(), perturbed.state_dict().values())


@perturbing
def test_with_a_perturbation_it_is_not_plain_training(case):
    plain, perturbed = bn_network(case.precision), bn_network(case.precision)
    steps = make_step(plain, case.plain()), make_step(perturbed, case)
    for number, batch in enumerate(image_batches(2, case.precision)):
        for step in steps:
            take(step, batch, number * FULL)
    assert not torch.equal(plain[0].weight, perturbed[0].weight)


@pytest.mark.parametrize("case", [c for c in TABLE if isinstance(c.method, MomentumAmp)], ids=str)
def test_momentum_amp_without_momentum_is_plain_training_to_the_bit(case):
    models = [bn_network(case.precision) for _ in range(2)]
    for model, each in zip(models, [case, case.plain()], strict=True):
        step = make_step(model, each, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
        for number, batch in enumerate(image_batches(3, case.precision)):
            take(step, batch, number)
    assert same_bits(*(model.state_dict().values() for model in models))


@pytest.mark.parametrize("case", [c for c in TABLE if type(c.method) is Sam], ids=str)
def test_asam_at_unit_scaling_is_sam_to_the_bit(case):
    asam = replace(case, method=Asam(rho=case.method.rho, only=case.method.only, eta=0.0))
    gradients = []
    for each in (case, asam):
        model = bn_network(case.precision)
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.where(p < 0, -1.0, 1.0))
        step = make_step(model, each)
        take(step, image_batches(1, case.precision)[0], 0)
        gradients.append([p.grad for p in model.parameters()])
    assert same_bits(*gradients)


@perturbing
def test_every_kth_step_perturbs_and_the_others_are_plain(case):
    model, step = started(case.but(perturb_every=3, radius_schedule="constant"))
    plain, plain_step = started(case.plain())
    seen = watch(model)
    for number in range(1, 5):
        plain.load_state_dict(model.state_dict())
        plain_step.method.optimizer.load_state_dict(copy.deepcopy(step.method.optimizer.state_dict()))
        batch = image_batches(number + 1, case.precision)[number]
        before = bits(model.parameters())
        seen.clear()
        take(step, batch, number)
        take(plain_step, batch, number)
        moved = not all(same_bits(weights, before) for weights, _ in seen)
        changed = not all(any(torch.equal(x, part) for part in batch[0].chunk(case.grad_accum_steps)) for _, x in seen)
        images = isinstance(case.method, Adversarial)
        assert (moved, changed) == ((not images, images) if number % 3 == 0 else (False, False))
        if number % 3:
            assert same_bits(model.state_dict().values(), plain.state_dict().values())


@pytest.mark.parametrize("case", [c for c in TABLE if isinstance(c.method, Amp)], ids=str)
def test_every_step_is_the_rule_itself_in_a_loop_of_ones_own(case):
    model, step = started(case.but(perturb_every=1, only="all"))
    own = copy.deepcopy(model)
    optimizer = make_optimizer(own, case.optimizer)
    optimizer.load_state_dict(copy.deepcopy(step.method.optimizer.state_dict()))
    settings = {name: getattr(case.method, name) for name in ("epsilon", "inner_lr", "inner_iter", "ball")}
    for number, (images, labels) in enumerate(image_batches(3, case.precision)):

        def closure(images=images, labels=labels):
            optimizer.zero_grad()
            for x, y in zip(images.chunk(case.grad_accum_steps), labels.chunk(case.grad_accum_steps), strict=True):
                with step.autocast():
                    logits = own(x)
                (F.cross_entropy(logits.to(x.dtype), y) * (len(y) / len(labels))).backward()
            if case.clip_norm is not None:
                nn.utils.clip_grad_norm_(own.parameters(), case.clip_norm)

        flatnext.amp(closure, own.parameters(), own.buffers(), **settings)
        optimizer.step()
        step(images, labels, number + 1, len(labels))
    assert same_bits(model.state_dict().values(), own.state_dict().values())


@pytest.mark.parametrize("case", [c for c in TABLE if "only" in vars(c.method)], ids=str)
def test_only_norm_perturbs_the_norms_parameters_alone(case):
    model, step = started(case.but(only="norm"))
    affine = {"1.weight", "1.bias", "4.weight", "4.bias"}
    before = bits(model.parameters())
    seen = watch(model)
    take(step, image_batches(1, case.precision)[0], FULL)
    moved = set()
    for weights, _ in seen:
        for (name, _), old, new in zip(model.named_parameters(), before, weights, strict=True):
            moved |= set() if torch.equal(old, new) else {name}
    assert moved == affine


def test_only_norm_knows_every_norm_and_each_parameter_once():
    net = nn.ModuleList([nn.GroupNorm(1, 4), nn.LayerNorm(4), nn.RMSNorm(4), nn.InstanceNorm1d(4, affine=True)])
    net.extend([nn.BatchNorm1d(4), nn.SyncBatchNorm(4), nn.Linear(4, 4), nn.BatchNorm2d(4, affine=False)])
    net[4].weight = net[5].weight  # shared
    model = nn.Sequential(nn.Linear(4, 4), net)
    bound = make_step(model, Case(Sam(only="norm"))).method
    expected = [id(p) for m in [*net[:6]] for p in m.parameters(recurse=False)]
    assert [id(p) for p in bound.parameters] == list(dict.fromkeys(expected))
    with pytest.raises(InputError, match="only=norm"):
        _ = make_step(nn.Linear(2, 2), Case(Amp(only="norm"))).method.parameters


# Weights, statistics and state


@cases
def test_batch_norm_counts_a_batch_once_by_the_clean_pass(case):
    model, step = started(case)
    batch = image_batches(2, case.precision)[1]
    twin = copy.deepcopy(model)
    if isinstance(case.method, MomentumAmp):  # its one pass is the perturbed one
        state = step.method.optimizer.state
        delta = [-case.method.inner_lr * state[p]["momentum_buffer"].double().numpy() for p in model.parameters()]
        factor = 1 - FULL / 25 if case.method.radius_schedule == "decay" else 1.0
        delta = oracle_methods.project(delta, case.method.epsilon * factor, case.method.ball)
        with torch.no_grad():
            for p, d in zip(twin.parameters(), delta, strict=True):
                p.add_(torch.from_numpy(d).to(p.dtype))
    losses = []
    for x, y in zip(*(t.chunk(case.grad_accum_steps) for t in batch), strict=True):
        with step.autocast():
            logits = twin(x)
        losses.append(F.cross_entropy(logits.to(x.dtype), y).item() * len(y))
    stats = take(step, batch, FULL)
    assert int(model[1].num_batches_tracked) == 2 * case.grad_accum_steps
    if isinstance(case.method, MomentumAmp):
        for ours, theirs in zip(model.buffers(), twin.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-2 if case.precision == "bf16" else 1e-5, atol=1e-6)
    else:
        assert same_bits(model.buffers(), twin.buffers())
        assert float(stats.loss) == pytest.approx(sum(losses), rel=1e-6)


def test_batch_norm_that_keeps_a_plain_mean_counts_once():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48, momentum=None), nn.Linear(48, 3))
    plain = copy.deepcopy(model)
    for each, case in ((model, Case(Amp(inner_iter=3), "fp32")), (plain, Case(Sgd(), "fp32"))):
        make = make_step(each, case, optimizer=torch.optim.SGD(each.parameters(), lr=0.0))
        for number, batch in enumerate(image_batches(4)):
            take(make, batch, number)
    assert same_bits(model.buffers(), plain.buffers())
    assert int(model[1].num_batches_tracked) == 4


@cases
def test_weights_and_images_come_back_to_the_bit(case):
    model, step = started(case)
    images, labels = image_batches(2, case.precision)[1]
    weights, before = bits(model.parameters()), images.clone()

    def closure():
        step.method.optimizer.zero_grad()
        with step.autocast():
            logits = model(images)
        F.cross_entropy(logits.to(images.dtype), labels).backward()
        return "the first"

    assert step.method(closure, images, FULL) == "the first"
    assert same_bits(weights, model.parameters())
    assert torch.equal(images, before)
    assert not images.requires_grad
    assert images.grad is None
    assert all(p.grad is not None and p.requires_grad for p in model.parameters())


class OutOfMemoryError(RuntimeError):
    pass


@cases
def test_everything_comes_back_when_the_closure_raises_at_any_call(case):
    model, step = started(case)
    images, labels = image_batches(2, case.precision)[1]
    before, state = copy.deepcopy(model.state_dict()), copy.deepcopy(step.method.optimizer.state_dict()["state"])
    clean = copy.deepcopy(model)
    with torch.no_grad(), step.autocast():
        for x in images.chunk(case.grad_accum_steps):
            clean(x)
    pixels = images.clone()
    calls = fail_at = 0

    def count(*_):
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise OutOfMemoryError

    model[3].register_forward_pre_hook(count)
    total = passes(case.method) * case.grad_accum_steps
    for fail_at in range(1, total + 1):
        calls = 0
        model.load_state_dict(before)
        with pytest.raises(OutOfMemoryError):
            step(images, labels, FULL, len(labels))
        assert same_bits(model.parameters(), (before[name] for name, _ in model.named_parameters()))
        assert torch.equal(images, pixels)
        assert not images.requires_grad
        assert images.grad is None
        if fail_at > case.grad_accum_steps:
            assert same_bits(model.buffers(), clean.buffers())
    after = step.method.optimizer.state_dict()["state"]
    assert all(torch.equal(after[k]["momentum_buffer"], v["momentum_buffer"]) for k, v in state.items())
    calls, fail_at = 0, -1
    step(images, labels, FULL, len(labels))
    assert calls == total


@pytest.mark.parametrize("fail_at", [1, 2, 3, None])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_images_that_had_a_gradient_have_it_again(norm, fail_at):
    model = oracle_network(oracle_weights(), "fp64")
    images, labels = to_torch(oracle_batches(1)[0], "fp64")
    images.requires_grad_()
    images.grad = torch.full_like(images, 7.0)
    values, calls = images.detach().clone(), 0

    def closure():
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise OutOfMemoryError
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()

    run = functools.partial(methods.adversarial, closure, [images], [], epsilon=0.1, inner_iter=2, norm=norm)
    with pytest.raises(OutOfMemoryError) if fail_at else contextlib.nullcontext():
        run()
    assert torch.equal(images.detach(), values)
    assert images.requires_grad
    assert torch.equal(images.grad, torch.full_like(images, 7.0))


@cases
def test_saved_and_resumed_equals_never_stopped(case):
    batches = image_batches(6, case.precision)
    model = bn_network(case.precision)
    step = make_step(model, case)
    for number in range(3):
        take(step, batches[number], number)
    kept = saved({"model": model.state_dict(), "optimizer": step.method.optimizer.state_dict()})
    resumed = bn_network(case.precision)
    resumed_step = make_step(resumed, case)
    resumed.load_state_dict(kept["model"])
    resumed_step.method.optimizer.load_state_dict(kept["optimizer"])
    for number in range(3, 6):
        take(step, batches[number], number)
        take(resumed_step, batches[number], number)
    assert same_bits(model.state_dict().values(), resumed.state_dict().values())
    ours, theirs = (s.method.optimizer.state_dict()["state"] for s in (step, resumed_step))
    assert all(torch.equal(ours[k]["momentum_buffer"], theirs[k]["momentum_buffer"]) for k in ours)


# Models of other kinds


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


# The rules by themselves, in somebody's loop


def rules(optimizer):
    """Return each rule that perturbs weights, large enough to be seen."""
    generator = torch.Generator().manual_seed(0)
    return {
        "amp": functools.partial(flatnext.amp, epsilon=0.5),
        "rmp": functools.partial(methods.rmp, epsilon=0.5, generator=generator),
        "sam": functools.partial(methods.sam, rho=0.5),
        "asam": functools.partial(methods.asam, rho=0.5),
        "momentum-amp": functools.partial(methods.momentum_amp, epsilon=0.5, optimizer=optimizer),
    }


@pytest.mark.parametrize("name", rules(None))
def test_autocast_around_the_whole_step_does_not_hide_the_perturbation(name):
    gradients = []
    images, labels = image_batches(1)[0]
    for outside in (True, False):
        model = bn_network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for p in model.parameters():  # torch keeps bf16 copies of the weights as long as autocast is on
            optimizer.state[p]["momentum_buffer"] = torch.ones_like(p)

        def closure(model=model, outside=outside):
            model.zero_grad()
            with contextlib.nullcontext() if outside else torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(images).float(), labels)
            loss.backward()

        with torch.autocast("cpu", torch.bfloat16) if outside else contextlib.nullcontext():
            rules(optimizer)[name](closure, model.parameters(), model.buffers())
            with torch.no_grad():
                after = model(images)  # with the weights that came back, not with copies of the perturbed ones
        gradients.append([*(p.grad for p in model.parameters()), after.float() if outside else None])
    weights = [g[:-1] for g in gradients]
    assert same_bits(*weights)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(gradients[0][-1], model(images).float(), rtol=0.05, atol=0.05)


def test_the_ball_clips_and_does_not_normalise():
    weight = nn.Parameter(torch.tensor([0.0, 0.0]))
    seen = []

    def closure(gradient):
        seen.append(weight.detach().clone())
        weight.grad = torch.tensor(gradient)

    methods.amp(lambda: closure([0.03, 0.04]), [weight], [], epsilon=0.5)
    assert torch.allclose(seen[1], torch.tensor([0.03, 0.04]))
    methods.amp(lambda: closure([3.0, 4.0]), [weight], [], epsilon=0.5)
    assert torch.allclose(seen[3], torch.tensor([0.3, 0.4]))


@pytest.mark.parametrize(("ball", "norms"), [("tensor", [0.5, 0.5]), ("global", [0.3, 0.4])])
def test_one_ball_a_tensor_or_one_over_all(ball, norms):
    weights = [nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(9))]
    seen = []

    def closure():
        seen.append([float(w.detach().norm()) for w in weights])
        weights[0].grad = torch.full((4,), 3 / 2)  # norm 3
        weights[1].grad = torch.full((9,), 4 / 3)  # norm 4

    methods.amp(closure, weights, [], epsilon=0.5, ball=ball)
    assert seen[1] == pytest.approx(norms, rel=1e-6)
    methods.rmp(closure, weights, [], epsilon=0.5, ball=ball, generator=torch.Generator().manual_seed(0))
    own = seen[3] if ball == "tensor" else [math.hypot(*seen[3])]
    assert own == pytest.approx([0.5] * len(own), rel=1e-6)
    methods.sam(closure, weights, [], rho=0.5)
    assert seen[5] == pytest.approx([0.3, 0.4], rel=1e-6)  # always one ball, to its edge


@pytest.mark.parametrize("ball", ["tensor", "global"])
@pytest.mark.parametrize("inner_iter", [1, 3])
def test_settings_in_any_form_are_the_same(ball, inner_iter):
    """A radius as a number, as a tensor on the device, and one number a parameter where there is one ball for each."""
    images, labels = image_batches(1, "fp64")[0]
    model = bn_network("fp64")
    count = len(list(model.parameters()))

    def closure():
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()

    forms = [(0.05, 0.7), (torch.tensor(0.05, dtype=torch.float64), 0.7), (0.05, [0.7] * count)]
    if ball == "tensor":
        forms += [
            ([0.05] * count, 0.7),
            ([0.05] * (count - 1) + [0.05 * (1 + 1e-13)], [0.7] * (count - 1) + [0.7 + 1e-13]),
        ]
    gradients = []
    for epsilon, inner_lr in forms:
        methods.amp(
            closure,
            model.parameters(),
            model.buffers(),
            epsilon=epsilon,
            inner_lr=inner_lr,
            inner_iter=inner_iter,
            ball=ball,
        )
        gradients.append([p.grad for p in model.parameters()])
    for other in gradients[1:]:
        for a, b in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Muon"])
def test_momentum_amp_steps_along_the_momentum_of_any_optimizer(name):
    layer = nn.Linear(5, 4, bias=False)
    options = {} if name == "AdamW" else {"momentum": 0.9}
    optimizer = getattr(torch.optim, name)(layer.parameters(), lr=0.01, **options)
    x, y = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 4
    seen = []

    def closure():
        seen.append(layer.weight.detach().clone())
        optimizer.zero_grad()
        F.cross_entropy(layer(x), y).backward()

    for _ in range(3):
        before = layer.weight.detach().clone()
        buffer = optimizer.state.get(layer.weight, {})
        buffer = buffer.get("exp_avg" if name == "AdamW" else "momentum_buffer", torch.zeros(())).clone()
        methods.momentum_amp(closure, layer.parameters(), [], optimizer=optimizer, epsilon=0.01, inner_lr=2.0)
        assert torch.equal(layer.weight, before)
        wanted = -2.0 * buffer
        wanted = wanted * min(1.0, 0.01 / max(float(wanted.norm()), 1e-30))
        torch.testing.assert_close(seen[-1] - before, wanted.expand_as(before), rtol=1e-3, atol=1e-6)
        optimizer.step()
    assert float((seen[-1] - before).norm()) > 1e-4


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Muon"])
def test_a_rule_beside_any_optimizer_trains(name):
    layer = nn.Linear(5, 4, bias=False)
    optimizer = getattr(torch.optim, name)(layer.parameters(), lr=0.05)
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    y = x[:, :4].argmax(dim=1)
    rule = functools.partial(flatnext.amp, epsilon=0.05)
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(layer(x), y)
        loss.backward()
        return float(loss.detach())

    for _ in range(20):
        losses.append(rule(closure, layer.parameters(), layer.buffers()))
        optimizer.step()
    assert losses[-1] < losses[0] - 0.02


BAD = [
    *[("amp", {"epsilon": 0.5, name: value}, name) for name in ("epsilon", "inner_lr") for value in (-0.1, math.nan)],
    ("amp", {"epsilon": math.inf}, "epsilon"),
    ("amp", {"epsilon": 0.5, "inner_iter": -1}, "inner_iter"),
    ("amp", {"epsilon": 0.5, "ball": "square"}, "square"),
    ("amp", {"epsilon": [0.5, -0.5]}, "epsilon"),
    ("amp", {"epsilon": [0.5, 0.5], "ball": "global"}, "ball=global"),
    ("amp", {"epsilon": 0.5, "inner_lr": [1.0, -1.0]}, "inner_lr"),
    ("rmp", {"epsilon": -0.5, "generator": None}, "epsilon"),
    ("rmp", {"epsilon": 0.5, "generator": None, "ball": "square"}, "square"),
    ("momentum_amp", {"epsilon": -0.5, "optimizer": None}, "epsilon"),
    ("momentum_amp", {"epsilon": 0.5, "optimizer": None, "inner_lr": -1.0}, "inner_lr"),
    ("momentum_amp", {"epsilon": 0.5, "optimizer": None, "ball": "square"}, "square"),
    ("sam", {"rho": -0.5}, "rho"),
    ("asam", {"rho": -0.5}, "rho"),
    ("asam", {"rho": 0.5, "eta": -0.1}, "eta"),
    ("adversarial", {"epsilon": -0.5}, "epsilon"),
    ("adversarial", {"epsilon": 0.5, "inner_lr": -1.0}, "inner_lr"),
    ("adversarial", {"epsilon": 0.5, "inner_iter": -1}, "inner_iter"),
    ("adversarial", {"epsilon": 0.5, "norm": "l3"}, "l3"),
]


@pytest.mark.parametrize(("name", "settings", "message"), BAD, ids=[f"{n}-{s}" for n, s, _ in BAD])
def test_a_bad_setting_is_an_input_error_before_anything_runs(name, settings, message):
    weights, calls = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))], []
    with pytest.raises(InputError, match=message) as caught:
        getattr(methods, name)(lambda: calls.append(1), weights, [], **settings)
    assert "\n" not in str(caught.value)
    assert not calls


@pytest.mark.parametrize("name", [*rules(None), "adversarial"])
def test_no_gradient_at_all_is_one_plain_pass(name):
    weights, calls = [nn.Parameter(torch.ones(2))], []
    optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
    rule = {**rules(optimizer), "adversarial": functools.partial(methods.adversarial, epsilon=0.0)}[name]
    assert rule(lambda: calls.append(1) or "result", weights, []) == "result"
    assert calls == [1]
    assert rule(lambda: "result", [], []) == "result"
