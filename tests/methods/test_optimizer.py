"""AMP in the shape of an optimizer: its authors' signature, with one state."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import io
import math
import pickle
import threading
import warnings
import weakref

import numpy as np
import oracle_methods
import pytest
import torch
from methods_table import (
    bits,
    bn_network,
    image_batches,
    oracle_batches,
    oracle_network,
    oracle_weights,
    same_bits,
    to_torch,
)
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.nn import functional as F
from torch.nn.modules import module as torch_module

import flatnext
from flatnext import methods, ops
from flatnext.config import Amp
from flatnext.errors import FallbackWarning, InputError
from flatnext.methods import AMP

SGD = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}
SETTINGS = [
    {"epsilon": 0.05},
    {"epsilon": 0.05, "inner_lr": 0.5, "inner_iter": 3},
    {"epsilon": 1e3, "inner_lr": 0.3},
    {"epsilon": 0.05, "inner_iter": 0},
]


def closure_of(model, optimizer, batch, calls=None):
    """Return a closure in the authors' style: it returns outputs and loss."""

    def closure():
        if calls is not None:
            calls.append(bits(model.parameters()))
        outputs = model(batch[0])
        loss = F.cross_entropy(outputs, batch[1])
        loss.backward()
        return outputs, loss

    return closure


def train(model, optimizer, batches):
    return [optimizer.step(closure_of(model, optimizer, batch)) for batch in batches]


def state_of(model, optimizer):
    """Return all tensors that decide how training goes on."""
    states = optimizer.state_dict()["state"].values()
    return [*model.state_dict().values(), *(v for s in states for v in s.values() if isinstance(v, torch.Tensor))]


def assert_equals_oracle(network, batches, settings, **options):
    given = {"inner_lr": 1.0, "inner_iter": 1, "ball": "tensor", **settings}
    expected, losses = oracle_methods.train(oracle_weights(), batches, "amp", given, **{**SGD, **options})
    for parameter, value in zip(network.parameters(), expected, strict=True):
        assert np.abs(parameter.detach().numpy() - value).max() < 1e-9
    return losses


# Agreement


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_25_steps_equal_the_oracle(settings):
    network, batches = oracle_network(oracle_weights(), "fp64"), oracle_batches(25)
    optimizer = AMP(network.parameters(), **SGD, **settings)
    results = train(network, optimizer, [to_torch(batch, "fp64") for batch in batches])
    losses = assert_equals_oracle(network, batches, settings)
    assert [float(loss) for _, loss in results] == pytest.approx(losses, abs=1e-9)


def test_it_is_in_the_package_and_an_optimizer():
    assert flatnext.AMP is AMP
    assert issubclass(AMP, torch.optim.Optimizer)


def test_it_returns_what_the_clean_pass_returned_detached():
    model, batch = bn_network(), image_batches(1)[0]
    clean = copy.deepcopy(model)
    outputs, loss = AMP(model.parameters(), lr=0.1, epsilon=0.5).step(closure_of(model, None, batch))
    assert torch.equal(outputs, clean(batch[0]))
    assert torch.equal(loss, F.cross_entropy(outputs, batch[1]))
    assert not outputs.requires_grad
    assert not loss.requires_grad


def test_gradients_are_zeroed_before_each_call_and_clipping_in_the_closure_counts():
    network, batches = oracle_network(oracle_weights(), "fp64"), oracle_batches(10)
    optimizer = AMP(network.parameters(), **SGD, epsilon=0.05, inner_iter=2)
    for batch in batches:
        closure = closure_of(network, optimizer, to_torch(batch, "fp64"))

        def clipped(closure=closure):
            result = closure()
            nn.utils.clip_grad_norm_(network.parameters(), 0.1)
            return result

        optimizer.step(clipped)
    assert_equals_oracle(network, batches, {"epsilon": 0.05, "inner_iter": 2}, clip_norm=0.1)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("name", ["AdamW", "RMSprop", "Adagrad"])
def test_other_base_optimizers_step_as_beside_the_rule(name, settings):
    models = [bn_network("fp64") for _ in range(2)]
    kind = getattr(torch.optim, name)
    wrapped = AMP(models[0].parameters(), lr=0.01, base_optimizer=kind, weight_decay=0.1, **settings)
    beside = kind(models[1].parameters(), lr=0.01, weight_decay=0.1)
    for images, labels in image_batches(5, "fp64"):
        train(models[0], wrapped, [(images, labels)])

        def closure(images=images, labels=labels):
            beside.zero_grad()
            F.cross_entropy(models[1](images), labels).backward()

        flatnext.amp(closure, models[1].parameters(), models[1].buffers(), **settings)
        beside.step()
    assert same_bits(state_of(models[0], wrapped), state_of(models[1], beside))


# One state


def saved(content):
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def make(model, base=torch.optim.SGD):
    options = SGD if base is torch.optim.SGD else {"lr": 0.01, "weight_decay": 0.1}
    return AMP(model.parameters(), epsilon=0.05, inner_iter=2, base_optimizer=base, **options)


bases = pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW], ids=["sgd", "adamw"])


@bases
def test_a_fresh_instance_with_its_state_goes_on_as_if_never_stopped(base):
    batches = image_batches(6)
    model = bn_network()
    optimizer = make(model, base)
    train(model, optimizer, batches[:3])
    kept = saved({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    train(model, optimizer, batches[3:])
    resumed = bn_network()
    resumed.load_state_dict(kept["model"])
    fresh = AMP(resumed.parameters(), lr=99.0, epsilon=9.0, inner_lr=7.0, base_optimizer=base)  # the state has its own
    fresh.load_state_dict(kept["optimizer"])
    train(resumed, fresh, batches[3:])
    assert same_bits(state_of(model, optimizer), state_of(resumed, fresh))


def test_the_state_of_a_plain_optimizer_can_be_taken_up():
    model, batches = bn_network(), image_batches(4)
    plain = torch.optim.SGD(model.parameters(), **SGD)
    for images, labels in batches[:2]:
        plain.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        plain.step()
    optimizer = AMP(model.parameters(), lr=1.0, epsilon=0.05, inner_lr=0.7, inner_iter=2)
    optimizer.load_state_dict(plain.state_dict())
    group = optimizer.param_groups[0]
    assert (group["lr"], group["epsilon"], group["inner_lr"]) == (0.1, 0.05, 0.7)
    calls = []
    optimizer.step(closure_of(model, optimizer, batches[2], calls))
    assert len(calls) == 3


class Counting(torch.optim.SGD):
    """Keeps more than torch's state, as lookahead optimizers do."""

    steps = 0

    def step(self, closure=None):
        self.steps += 1
        return super().step(closure)

    def state_dict(self):
        return {**super().state_dict(), "steps": self.steps}

    def load_state_dict(self, state):
        super().load_state_dict({name: value for name, value in state.items() if name != "steps"})
        self.steps = state["steps"]


def test_what_a_base_keeps_beside_torchs_state_is_saved_and_loaded():
    model = bn_network()
    optimizer = AMP(model.parameters(), lr=0.1, epsilon=0.05, base_optimizer=Counting)
    train(model, optimizer, image_batches(3))
    fresh = AMP(model.parameters(), lr=0.1, epsilon=0.05, base_optimizer=Counting)
    fresh.load_state_dict(saved(optimizer.state_dict()))
    assert fresh.base_optimizer.steps == 3


def test_hooks_of_loading_and_saving_are_called_as_by_torch():
    def called(optimizer):
        calls = []

        def before_loading(hooked, state):
            calls.append((hooked is optimizer, state["param_groups"][0]["lr"]))
            groups = [{**group, "lr": 0.25} for group in state["param_groups"]]
            return {**state, "param_groups": groups}

        optimizer.register_load_state_dict_pre_hook(before_loading)
        optimizer.register_load_state_dict_post_hook(lambda hooked: calls.append(hooked.param_groups[0]["lr"]))
        optimizer.register_state_dict_pre_hook(lambda hooked: calls.append(hooked is optimizer))
        optimizer.register_state_dict_post_hook(lambda hooked, state: calls.append("saved"))
        optimizer.load_state_dict(optimizer.state_dict())
        return calls, optimizer.param_groups[0]["lr"]

    plain = torch.optim.SGD(bn_network().parameters(), lr=0.5)
    assert called(AMP(bn_network().parameters(), lr=0.5, epsilon=0.1)) == called(plain)


SCHEDULERS = {
    "step": functools.partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.1),
    "cosine": functools.partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=6),
    "one-cycle": functools.partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.2, total_steps=8),
    "lambda": functools.partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda n: 1 / (n + 1)),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_a_torch_scheduler_reaches_the_step_also_after_a_resume(scheduler):
    batches = image_batches(6)

    def steps(model, optimizer, schedule, batches):
        for batch in batches:
            train(model, optimizer, [batch])
            schedule.step()

    model = bn_network()
    optimizer = make(model)
    schedule = scheduler(optimizer)
    steps(model, optimizer, schedule, batches[:3])
    kept = saved([model.state_dict(), optimizer.state_dict(), schedule.state_dict()])
    steps(model, optimizer, schedule, batches[3:])

    resumed = bn_network()
    fresh = make(resumed)
    fresh_schedule = scheduler(fresh)
    for each, state in zip([resumed, fresh, fresh_schedule], kept, strict=True):
        each.load_state_dict(state)
    steps(resumed, fresh, fresh_schedule, batches[3:])
    assert same_bits(state_of(model, optimizer), state_of(resumed, fresh))
    assert fresh.base_optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_a_scheduled_rate_moves_the_weights_by_that_rate():
    model, batch = bn_network("fp64"), image_batches(1, "fp64")[0]
    optimizer = AMP(model.parameters(), lr=0.1, epsilon=0.05)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    train(model, optimizer, [batch])
    scheduler.step()
    before = bits(model.parameters())
    train(model, optimizer, [batch])
    for old, p in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(old - p, 0.01 * p.grad, rtol=1e-9, atol=1e-12)


def through_pickle(things):
    return pickle.loads(pickle.dumps(things))


@bases
@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle], ids=["deepcopy", "pickle"])
def test_a_copy_has_one_state_of_its_own(base, duplicate):
    batches = image_batches(5)
    model = bn_network()
    optimizer = make(model, base)
    train(model, optimizer, batches[:2])
    other, twin = duplicate((model, optimizer))
    assert twin.param_groups is twin.base_optimizer.param_groups
    assert twin.state is twin.base_optimizer.state
    before = bits(model.state_dict().values())
    train(other, twin, batches[2:])
    assert same_bits(before, model.state_dict().values())
    train(model, optimizer, batches[2:])
    assert same_bits(state_of(model, optimizer), state_of(other, twin))


# Groups


def test_groups_with_their_own_rate_and_radius_equal_the_oracle():
    network, batches = oracle_network(oracle_weights(), "fp64"), oracle_batches(15)
    tensors = list(network.parameters())
    groups = [
        {"params": tensors[:2]},
        {"params": tensors[2:4], "epsilon": 0.3, "lr": 0.02},
        {"params": tensors[4:], "epsilon": 0.01, "inner_lr": 3.0},
    ]
    optimizer = AMP(groups, **SGD, epsilon=0.05, inner_iter=2)
    train(network, optimizer, [to_torch(batch, "fp64") for batch in batches])
    assert_equals_oracle(
        network,
        batches,
        {"epsilon": np.array([0.05] * 2 + [0.3] * 2 + [0.01] * 2), "inner_lr": np.array([1.0] * 4 + [3.0] * 2)}
        | {"inner_iter": 2},
        lr=np.array([0.1] * 2 + [0.02] * 2 + [0.1] * 2),
    )
    assert [len(group) for group in groups] == [1, 3, 3]  # what was given is left alone


def test_a_group_with_radius_zero_is_not_perturbed():
    model, batch, calls = bn_network(), image_batches(1)[0], []
    tensors = list(model.parameters())
    optimizer = AMP([{"params": tensors[:3]}, {"params": tensors[3:], "epsilon": 0.0}], lr=0.1, epsilon=0.5)
    optimizer.step(closure_of(model, optimizer, batch, calls))
    assert [torch.equal(a, b) for a, b in zip(*calls, strict=True)] == [False] * 3 + [True] * (len(tensors) - 3)


def test_a_group_that_is_added_later_trains_and_is_saved():
    network, batches = oracle_network(oracle_weights(), "fp64"), oracle_batches(10)
    tensors = list(network.parameters())
    optimizer = AMP(tensors[:4], **SGD, epsilon=0.05)
    optimizer.add_param_group({"params": tensors[4:], "epsilon": 0.2})
    assert optimizer.param_groups is optimizer.base_optimizer.param_groups
    assert [group["epsilon"] for group in optimizer.param_groups] == [0.05, 0.2]
    assert [group["inner_lr"] for group in optimizer.param_groups] == [1.0, 1.0]
    train(network, optimizer, [to_torch(batch, "fp64") for batch in batches])
    assert_equals_oracle(network, batches, {"epsilon": np.array([0.05] * 4 + [0.2] * 2)})
    assert len(optimizer.state_dict()["state"]) == 6


def test_a_group_that_is_added_later_has_the_constructors_settings():
    tensors = list(bn_network().parameters())
    optimizer = AMP([{"params": tensors[:3], "epsilon": 0.0, "inner_lr": 2.0, "inner_iter": 3}], lr=0.1, epsilon=0.5)
    optimizer.add_param_group({"params": tensors[3:]})
    added = optimizer.param_groups[1]
    assert (added["epsilon"], added["inner_lr"]) == (0.5, 1.0)
    assert added["inner_iter"] == 3  # one for all


def test_the_radius_can_be_scheduled_in_the_groups():
    network, batches = oracle_network(oracle_weights(), "fp64"), oracle_batches(10)
    optimizer = AMP(network.parameters(), **SGD, epsilon=0.1)
    for number, batch in enumerate(batches):
        optimizer.param_groups[0]["epsilon"] = 0.1 * (1 - number / 10)
        train(network, optimizer, [to_torch(batch, "fp64")])
    assert_equals_oracle(network, batches, {"epsilon": 0.1, "radius_schedule": "decay"})


def test_named_frozen_and_unused_parameters():
    model, batches = bn_network(), image_batches(2)
    model[0].weight.requires_grad_(False)
    model.register_parameter("unused", nn.Parameter(torch.ones(3)))
    frozen = model[0].weight.clone()
    optimizer = AMP(model.named_parameters(), **SGD, epsilon=0.5)
    train(model, optimizer, batches)
    assert torch.equal(model[0].weight, frozen)
    assert torch.equal(model.unused, torch.ones(3))
    assert "7.bias" in optimizer.param_groups[0]["param_names"]


# Batch norm, without being told of the model


class Wrapper(nn.Module):
    """A wrapper as DataParallel is one: it calls the module inside."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


def by_function(model):
    @torch.compile(backend="eager")
    def function(x):
        return model(x)

    return function


def compiled_in_place(model):
    wrapper = Wrapper(model)
    wrapper.compile(backend="eager")
    return wrapper


WRAPPED = {
    "plain": lambda model: model,
    "wrapper": Wrapper,
    "data-parallel": nn.DataParallel,
    "forward": lambda model: model.forward,
    "compiled": functools.partial(torch.compile, backend="eager"),
    "compiled-aot": functools.partial(torch.compile, backend="aot_eager"),
    "compiled-in-place": compiled_in_place,
    "compiled-function": by_function,
    "wrapper-of-compiled": lambda model: Wrapper(torch.compile(model, backend="eager")),
    "compiled-wrapper": lambda model: torch.compile(Wrapper(model), backend="eager"),
}


# No hook runs where dynamo has compiled the call of the outermost module itself, or a function around it.
HIDDEN = ("compiled-in-place", "compiled-function")


@pytest.mark.parametrize("name", WRAPPED)
def test_batch_norm_counts_a_batch_once(name):
    torch.compiler.reset()
    model, plain, batches = bn_network("fp64"), bn_network("fp64"), image_batches(3, "fp64")
    call = WRAPPED[name](model)
    told = {"buffers": model.buffers()} if name in HIDDEN else {}
    optimizer = AMP(model.parameters(), lr=0.0, epsilon=0.5, inner_iter=2, **told)
    for images, labels in batches:

        def closure(images=images, labels=labels):
            F.cross_entropy(call(images), labels).backward()

        optimizer.step(closure)
        plain(images)
    assert int(model[1].num_batches_tracked) == 3
    for ours, theirs in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["compiled-in-place", "compiled-function", "plain"])
def test_a_model_that_was_not_seen_running_is_said_once(name):
    torch.compiler.reset()
    model, batch, loss = bn_network(), image_batches(1)[0], nn.CrossEntropyLoss()
    call = WRAPPED[name](model)

    def closure():
        loss(call(batch[0]), batch[1]).backward()

    for told in ({}, {"buffers": model}, {"buffers": ()}):
        optimizer = AMP(model.parameters(), lr=0.1, epsilon=0.5, **told)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default", FallbackWarning)
            optimizer.step(closure)
            optimizer.step(closure)
        hidden = name in HIDDEN and not told
        assert [w.category for w in caught] == [FallbackWarning] * hidden
        assert not hidden or "give buffers=model, or buffers=() if there are none" in str(caught[0].message)


def test_a_part_of_a_model_that_was_not_seen_running_is_said():
    torch.compiler.reset()
    backbone, head, batch = bn_network(), nn.Linear(3, 3), image_batches(1)[0]
    backbone.compile(backend="eager")
    for told in ({}, {"buffers": nn.Sequential(backbone, head)}):
        optimizer = AMP([*backbone.parameters(), *head.parameters()], lr=0.1, epsilon=0.5, **told)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default", FallbackWarning)
            optimizer.step(lambda: F.cross_entropy(head(backbone(batch[0])), batch[1]).backward())
        assert [w.category for w in caught] == [FallbackWarning] * (not told)


def test_without_buffers_a_model_may_be_moved():
    model, batch = bn_network(), image_batches(1, "fp64")[0]
    optimizer = AMP(model.parameters(), lr=0.1, epsilon=0.5, buffers=())
    model.double()
    train(model, optimizer, [batch])


@pytest.mark.parametrize("told", [False, True])
def test_an_ensemble_in_torch_func_is_given_its_buffers(told):
    """The oracle is each of the two networks by itself, as far as its batch norm goes."""
    batch, models = image_batches(1)[0], [bn_network() for _ in range(2)]
    parameters, buffers = torch.func.stack_module_state(models)
    base = copy.deepcopy(models[0])

    def run(parameters, buffers):
        return torch.func.functional_call(base, (parameters, buffers), (batch[0],))

    def closure():
        torch.vmap(run, randomness="different")(parameters, buffers).square().mean().backward()

    settings = {"buffers": buffers.values()} if told else {}
    optimizer = AMP(parameters.values(), lr=0.0, epsilon=0.5, **settings)
    if told:
        optimizer.step(closure)
        models[0](batch[0])
        for ours, theirs in zip(buffers.values(), models[0].buffers(), strict=True):
            torch.testing.assert_close(ours[0], theirs)
    else:
        with pytest.raises(InputError, match=r"inside torch.func: give buffers=\[the stacked buffers\]"):
            optimizer.step(closure)


class Statistic(nn.Module):
    """A network that keeps a statistic of its own, which it changes in place, or assigns anew, or both."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.layer = nn.Linear(48, 3)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, x):
        x = self.layer(x.flatten(1))
        if self.how in ("in place", "both"):
            self.mean.mul_(0.9).add_(x.detach().mean(0))
            self.count += 1
        if self.how in ("assigned", "both"):
            self.mean = 0.9 * self.mean + x.detach().mean(0)
            self.count = self.count + 1
        return x - self.mean


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("how", ["in place", "assigned", "both"])
@pytest.mark.parametrize("failing", [False, True])
def test_a_statistic_counts_a_batch_once_however_it_is_changed(how, told, training, failing):
    """The oracle is a copy of the network that sees each batch once."""
    model = Statistic(how).train(training)
    plain = copy.deepcopy(model)
    optimizer = AMP(model.parameters(), lr=0.0, epsilon=0.5, inner_iter=2, **({"buffers": model} if told else {}))
    for batch in image_batches(3):
        calls = []
        closure = closure_of(model, optimizer, batch, calls)

        def failing_closure(closure=closure, calls=calls):
            closure()
            if failing and len(calls) == 2:
                raise RuntimeError("out of memory")

        with pytest.raises(RuntimeError, match="out of memory") if failing else contextlib.nullcontext():
            optimizer.step(failing_closure)
        plain(batch[0])
        assert same_bits(model.buffers(), plain.buffers())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
def test_a_scripted_model_counts_a_batch_once():
    model, batches = bn_network(), image_batches(2)
    plain = copy.deepcopy(model)
    together = torch.jit.script(model)
    train(together, AMP(together.parameters(), lr=0.0, epsilon=0.5), batches)
    for images, _ in batches:
        plain(images)
    assert same_bits(together.buffers(), plain.buffers())


def test_statistics_that_a_functional_call_is_given_count_once():
    model, batch = bn_network(), image_batches(1)[0]
    plain = copy.deepcopy(model)
    given = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def closure():
        F.cross_entropy(torch.func.functional_call(model, given, (batch[0],)), batch[1]).backward()

    AMP(model.parameters(), lr=0.0, epsilon=0.5).step(closure)
    before = bits(plain.buffers())
    assert same_bits(model.buffers(), before)
    plain(batch[0])
    assert same_bits(given.values(), plain.buffers())


@pytest.mark.parametrize("told", [None, "model", "buffers"])
def test_a_model_that_is_moved_later_counts_a_batch_once_or_it_is_said(told):
    """Another type stands for another device: both put new tensors in place of the buffers."""
    model, batch = bn_network(), image_batches(1, "fp64")[0]
    buffers = {None: None, "model": model, "buffers": model.buffers()}[told]
    optimizer = AMP(model.parameters(), lr=0.0, epsilon=0.5, buffers=buffers)
    model.double()
    plain = copy.deepcopy(model)
    if told == "buffers":
        with pytest.raises(InputError, match=r"was moved, .* flatnext.AMP\(..., buffers=model\)"):
            train(model, optimizer, [batch])
        assert same_bits(model.state_dict().values(), plain.state_dict().values())
    else:
        train(model, optimizer, [batch])
        plain(batch[0])
        assert same_bits(model.buffers(), plain.buffers())


@pytest.mark.skipif(ops.library() is None, reason="no compiler, or not a CPU that the kernels are for")
def test_every_pass_takes_the_kernels_and_a_batch_counts_once(monkeypatch):
    """The second norm is called by nobody whose modules it is among, so that its buffers are seen in its own call."""
    norms, calls, kernel = [nn.BatchNorm2d(16), nn.BatchNorm2d(16)], [], ops.layers.cpu_norm.batch_norm
    images = torch.randn(4, 16, 3, 3).to(memory_format=torch.channels_last)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = norms[0]

        def forward(self, x):
            return ops.batch_norm(self.norm, x)

    block = Block()
    monkeypatch.setattr(
        ops.layers.cpu_norm, "batch_norm", lambda norm, *a, **k: calls.append(norm) or kernel(norm, *a, **k)
    )
    optimizer = AMP([p for norm in norms for p in norm.parameters()], lr=0.1, epsilon=0.5)
    optimizer.step(lambda: ops.batch_norm(norms[1], block(images)).square().mean().backward())
    assert calls == [norms[0], *norms]
    assert [int(norm.num_batches_tracked) for norm in norms] == [1, 1]


def test_what_another_thread_trains_meanwhile_is_left_alone():
    model, other = bn_network(), bn_network()
    (images, labels), *_ = image_batches(1)

    def closure():
        thread = threading.Thread(target=other, args=(images,))
        thread.start()
        thread.join()
        F.cross_entropy(model(images), labels).backward()

    AMP(model.parameters(), lr=0.1, epsilon=0.5).step(closure)
    assert int(model[1].num_batches_tracked) == 1
    assert int(other[1].num_batches_tracked) == 2


def test_batch_norm_in_evaluation_mode_is_left_alone():
    model, batch = bn_network(), image_batches(1)[0]
    model[1].eval()
    before = bits(model[1].buffers())
    train(model, AMP(model.parameters(), lr=0.1, epsilon=0.5), [batch])
    assert same_bits(before, model[1].buffers())
    assert int(model[4].num_batches_tracked) == 1


def test_a_compiled_model_is_compiled_once_and_not_every_step():
    torch.compiler.reset()
    counter = CompileCounter()
    model, plain = bn_network(), bn_network()
    train(torch.compile(model, backend=counter), AMP(model.parameters(), lr=0.01, epsilon=0.05), image_batches(12))
    train(plain, AMP(plain.parameters(), lr=0.01, epsilon=0.05), image_batches(12))
    assert same_bits(model.state_dict().values(), plain.state_dict().values())
    assert counter.frame_count <= 2


# Whatever else


@pytest.mark.parametrize("failing_call", [1, 2, 3])
def test_everything_comes_back_when_the_closure_raises(failing_call):
    model, batches = bn_network(), image_batches(2)
    optimizer = make(model)
    train(model, optimizer, batches[:1])
    before, calls = bits(state_of(model, optimizer)), []
    closure = closure_of(model, optimizer, batches[1], calls)
    clean = copy.deepcopy(model)
    clean(batches[1][0])

    def failing():
        if len(calls) + 1 == failing_call:
            raise RuntimeError("out of memory")
        return closure()

    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(failing)
    if failing_call > 1:
        assert same_bits(model.buffers(), clean.buffers())
        for buffer, value in zip(model.buffers(), bn_buffers(before, model), strict=True):
            buffer.copy_(value)
    assert same_bits(before, state_of(model, optimizer))
    assert not torch_module._global_forward_pre_hooks
    twin = copy.deepcopy((model, optimizer))
    train(model, optimizer, batches[1:])
    train(*twin, batches[1:])
    assert same_bits(state_of(model, optimizer), state_of(*twin))


def bn_buffers(state, model):
    """Return the buffers' values among those of `state_of`."""
    names = {name for name, _ in model.named_buffers()}
    return [value for name, value in zip(model.state_dict(), state, strict=False) if name in names]


RETURNS = {
    "scalar": lambda outputs, loss: loss,
    "tuple": lambda outputs, loss: (outputs, loss),
    "list": lambda outputs, loss: [outputs, loss],
    "dict": lambda outputs, loss: {"outputs": outputs, "loss": loss, "count": 6},
    "nested": lambda outputs, loss: {"all": (outputs, [loss], "text")},
    "float": lambda outputs, loss: loss.item(),
    "none": lambda outputs, loss: None,
}


@pytest.mark.parametrize("pick", RETURNS.values(), ids=RETURNS)
def test_a_closure_may_return_anything(pick):
    model, batch = bn_network(), image_batches(1)[0]
    clean = copy.deepcopy(model)
    outputs = clean(batch[0]).detach()
    expected = pick(outputs, F.cross_entropy(outputs, batch[1]))

    def closure():
        outputs = model(batch[0])
        loss = F.cross_entropy(outputs, batch[1])
        loss.backward()
        return pick(outputs, loss)

    result = AMP(model.parameters(), lr=0.1, epsilon=0.5).step(closure)
    flat, spec = torch.utils._pytree.tree_flatten(result)
    wanted, wanted_spec = torch.utils._pytree.tree_flatten(expected)
    assert spec == wanted_spec
    for a, b in zip(flat, wanted, strict=True):
        assert torch.equal(a, b) if isinstance(b, torch.Tensor) else a == b
        assert not isinstance(a, torch.Tensor) or not a.requires_grad


def test_an_object_that_each_call_fills_anew_is_returned_as_the_first_filled_it():
    model, batch, found, seen = bn_network(), image_batches(1)[0], {}, []

    def closure():
        found["loss"] = F.cross_entropy(model(batch[0]), batch[1])
        found["loss"].backward()
        seen.append(found["loss"].item())
        return found

    result = AMP(model.parameters(), lr=0.1, epsilon=0.5).step(closure)
    assert result["loss"].item() == seen[0] != seen[1]


@pytest.mark.parametrize("later", [False, True])
def test_an_optimizer_that_maximizes_is_refused(later):
    model, batches = bn_network(), image_batches(1)
    optimizer = AMP(model.parameters(), lr=0.1, epsilon=0.5, maximize=not later)
    optimizer.param_groups[0]["maximize"] = True
    before = bits(state_of(model, optimizer))
    with pytest.raises(InputError, match=r"maximize=True.*minimise minus the objective"):
        train(model, optimizer, batches)
    assert same_bits(before, state_of(model, optimizer))


def test_a_setting_that_the_base_has_too_is_refused():
    parameters = list(bn_network().parameters())
    with pytest.raises(InputError, match=r"Adadelta has a setting rho of its own: use the rule flatnext.sam beside it"):
        methods.SAM(parameters, lr=0.1, base_optimizer=torch.optim.Adadelta)
    AMP(parameters, lr=0.1, epsilon=0.5, base_optimizer=torch.optim.Adadelta)
    with pytest.raises(InputError, match="base_optimizer is SAM: give an ordinary one"):
        AMP(parameters, lr=0.1, epsilon=0.5, base_optimizer=methods.SAM)


def test_a_subclass_may_have_a_constructor_of_its_own():
    class OfModel(AMP):
        def __init__(self, model, epsilon=0.5):
            super().__init__(model.parameters(), lr=0.1, epsilon=epsilon)

    ours, theirs, batches = bn_network(), bn_network(), image_batches(2)
    train(ours, OfModel(ours), batches)
    train(theirs, AMP(theirs.parameters(), lr=0.1, epsilon=0.5), batches)
    assert same_bits(ours.parameters(), theirs.parameters())


def test_the_gradient_is_that_at_the_perturbed_weights_and_stays():
    model, batch, calls = bn_network("fp64"), image_batches(1, "fp64")[0], []
    optimizer = AMP(model.parameters(), lr=0.1, epsilon=0.5)
    optimizer.step(closure_of(model, optimizer, batch, calls))
    moved = bn_network("fp64")
    with torch.no_grad():
        for p, value in zip(moved.parameters(), calls[1], strict=True):
            p.copy_(value)
    F.cross_entropy(moved(batch[0]), batch[1]).backward()
    assert same_bits((p.grad for p in model.parameters()), (p.grad for p in moved.parameters()))


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_that_were_accumulated_before_a_step_are_refused(set_to_none):
    """As Lightning does with accumulate_grad_batches: the closure by itself, and then a step."""
    model, batches = bn_network(), image_batches(2)
    optimizer = make(model)
    for _ in range(2):  # of a new optimizer, and after a step
        closure_of(model, optimizer, batches[0])()
        before = bits(state_of(model, optimizer))
        for _ in range(2):
            with pytest.raises(InputError, match=r"accumulated or changed before step.*run all micro") as caught:
                train(model, optimizer, batches[1:])
        assert "\n" not in str(caught.value)
        assert same_bits(before, state_of(model, optimizer))
        optimizer.zero_grad(set_to_none)
        train(model, optimizer, batches[1:])


def test_other_gradients_do_not_end_a_step():
    """Those of a phase before the optimizer was made, or of a failed step, or that the base optimizer has clipped."""
    model, (batch,) = bn_network(), image_batches(1)
    closure_of(model, None, batch)()
    optimizer = make(model)

    def clip(*_):
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)

    optimizer.base_optimizer.register_step_pre_hook(clip)
    train(model, optimizer, [batch])
    closure, calls = closure_of(model, optimizer, batch), []

    def failing():
        closure()
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(failing)
    train(model, optimizer, [batch])
    for duplicate in (copy.deepcopy, through_pickle):
        model, optimizer = duplicate((model, optimizer))
        train(model, optimizer, [batch, batch])


@pytest.mark.parametrize("kind", ["bound", "class"])
def test_weights_in_half_precision_are_said_once(kind):

    def make(dtype):
        model = bn_network().to(dtype)
        if kind == "class":
            return AMP(model.parameters(), lr=0.1, epsilon=0.5)
        return methods.bind(Amp(), model, torch.optim.SGD(model.parameters(), lr=0.1), total_steps=1)

    make(torch.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default", FallbackWarning)
        make(torch.bfloat16)
        make(torch.bfloat16)
    assert [w.category for w in caught] == [FallbackWarning]
    assert "weights in bfloat16 lose most of a perturbation" in str(caught[0].message)


def test_it_may_be_called_where_gradients_are_off():
    models = [bn_network() for _ in range(2)]
    for model, context in zip(models, [torch.no_grad(), torch.enable_grad()], strict=True):
        with context:
            train(model, make(model), image_batches(1))
    assert same_bits(*(model.state_dict().values() for model in models))


def test_without_a_closure_it_says_what_it_needs():
    model = bn_network()
    optimizer = make(model)
    for gradient in (None, torch.zeros_like, torch.ones_like):
        for p in model.parameters():
            p.grad = gradient and gradient(p)
        before = bits(model.parameters())
        with pytest.raises(InputError, match=r"needs a closure.*: optimizer\.step\(closure\); a GradScaler gives none"):
            optimizer.step()
        assert same_bits(model.parameters(), before)
        assert not optimizer.state


@bases
def test_a_distributed_checkpoint_takes_a_new_one_as_it_takes_its_base(base):
    """It is by a step without a closure, of no length, that torch makes the state of a new optimizer."""
    options = {"lr": 0.01, "weight_decay": 0.1} | ({"momentum": 0.9} if base is torch.optim.SGD else {})
    found = []
    for kind in (functools.partial(AMP, epsilon=0.5, base_optimizer=base), base):
        model = bn_network()
        before = bits(model.parameters())
        state = get_optimizer_state_dict(model, kind(model.parameters(), **options))["state"]
        found.append({name: set(values) for name, values in state.items()})
        assert same_bits(before, model.parameters())
    assert found[0] == found[1]
    assert len(found[0]) == len(before)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": -0.1},
        {"epsilon": math.nan},
        {"inner_lr": -1.0},
        {"inner_iter": -1},
        {"group": {"epsilon": -0.1}},
        {"group": {"inner_lr": -0.1}},
        {"epsilon": None},
        {"epsilon": "0.1"},
        {"epsilon": [0.1, 0.2]},
        {"inner_lr": None},
        {"inner_iter": 1.5},
    ],
    ids=str,
)
def test_a_bad_setting_is_an_input_error(wrong):
    wrong = dict(wrong)
    group = {"params": bn_network().parameters(), **wrong.pop("group", {})}
    with pytest.raises(InputError, match=r"not negative|give a (whole )?number") as caught:
        AMP([group], **{"lr": 0.1, "epsilon": 0.5, **wrong})
    assert "\n" not in str(caught.value)


def test_no_parameters_at_all_are_refused():
    model = bn_network()
    used_up = model.parameters()
    list(used_up)
    with pytest.raises(InputError, match="empty"):
        AMP(used_up, lr=0.1, epsilon=0.5)


def test_a_setting_of_the_base_that_it_does_not_have_is_torchs_error():
    with pytest.raises(TypeError, match="mumentum"):
        AMP(bn_network().parameters(), lr=0.1, epsilon=0.5, mumentum=0.9)


def test_nothing_of_the_model_is_kept_alive_between_steps():
    holder, batch = [bn_network()], image_batches(1)[0]
    optimizer = AMP(holder[0].parameters(), **SGD, epsilon=0.5)
    outputs = []

    def closure():
        result = holder[0](batch[0])
        outputs.append(weakref.ref(result))
        loss = F.cross_entropy(result, batch[1])
        loss.backward()
        return result, loss

    gc.collect()
    gc.disable()  # what is left to the collector stays in a GPU's memory for a while
    try:
        optimizer.step(closure)
        assert [ref() for ref in outputs] == [None, None]
        kept = [weakref.ref(buffer) for buffer in holder[0].buffers()]
        holder.clear()
        assert [ref() for ref in kept] == [None] * len(kept)
    finally:
        gc.enable()
    assert set(vars(optimizer)) == set(vars(AMP(bn_network().parameters(), lr=0.1, epsilon=0.5)))
    assert all(set(state) == {"momentum_buffer"} for state in optimizer.state.values())
