"""What a step leaves: weights, images, statistics and state, also after an error or a restart."""

import contextlib
import copy
import functools

import oracle_methods
import pytest
import torch
from methods_table import (
    FULL,
    Case,
    bits,
    bn_network,
    cases,
    image_batches,
    make_step,
    oracle_batches,
    oracle_network,
    oracle_weights,
    passes,
    same_bits,
    saved,
    started,
    take,
    to_torch,
)
from torch import nn
from torch.nn import functional as F

from flatnext import methods
from flatnext.config import Amp, Sgd
from flatnext.config.method import MomentumAmp


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


def unwritable_buffers():
    with torch.inference_mode():
        of_inference = torch.ones(3)
    return {
        "expanded": torch.ones(1).expand(8),
        "expanded inside": torch.arange(5).expand(3, -1),
        "of inference": of_inference,
        "not made yet": nn.UninitializedBuffer(),
        "empty": torch.zeros(0),
        "sparse": torch.eye(3).to_sparse(),
    }


@pytest.mark.parametrize("kind", ["rule", "class"])
@pytest.mark.parametrize("name", unwritable_buffers())
def test_a_buffer_that_cannot_be_written_is_left_alone(name, kind):
    model, (images, labels) = bn_network(), image_batches(1)[0]
    model.register_buffer("other", unwritable_buffers()[name])
    before, plain = bits(model.parameters()), bn_network()
    plain(images)

    def closure():
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()

    if kind == "rule":
        methods.sam(closure, model.parameters(), model.buffers(), rho=0.5)
    else:
        methods.SAM(model.parameters(), lr=0.0, rho=0.5).step(closure)
    assert same_bits(before, model.parameters())
    assert same_bits([b for n, b in model.named_buffers() if n != "other"], plain.buffers())


def test_weights_come_back_also_where_a_buffer_cannot():
    model, (images, labels) = bn_network(), image_batches(1)[0]
    before = bits(model.parameters())

    def closure():
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        if not same_bits(before, model.parameters()):
            model[1].running_mean.resize_(2)

    with pytest.raises(RuntimeError):
        methods.sam(closure, model.parameters(), model.buffers(), rho=0.5)
    assert same_bits(before, model.parameters())


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
