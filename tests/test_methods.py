"""The contract of the methods, over one table of settings, against the NumPy oracle."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import oracle_amp
from flatnext import methods
from flatnext.config import Amp, Optimizer, Sgd
from flatnext.device import autocast
from flatnext.models import ResNeXt
from flatnext.training import Step, make_optimizer

METHODS = [
    Sgd(),
    Amp(epsilon=0.5, inner_lr=1.0, inner_iter=0),
    Amp(epsilon=0.0),
    Amp(epsilon=0.05),
    Amp(epsilon=1e3),
    Amp(epsilon=0.05, inner_lr=0.5, inner_iter=3),
    Amp(epsilon=0.02, ball="global"),
    Amp(epsilon=0.02, inner_lr=2.0, inner_iter=3, ball="global"),
]
OPTIMIZERS = [
    Optimizer(learning_rate=0.2, momentum=0.0, nesterov=False, weight_decay=0.0),
    Optimizer(learning_rate=0.2, momentum=0.9, nesterov=True, weight_decay=1e-2, decay_all=True),
    Optimizer(learning_rate=0.2, momentum=0.9, nesterov=False, weight_decay=1e-2, decay_all=True, clip_norm=0.1),
]


def name(settings):
    return settings.name + "".join(f"-{value}" for value in vars(settings).values())


def small_problem(steps=25):
    random = np.random.default_rng(0)
    weights = [random.normal(size=shape) for shape in [(7, 5), (7,), (4, 7), (4,)]]
    return weights, [(random.normal(size=(16, 5)), random.integers(0, 4, 16)) for _ in range(steps)]


def torch_network(weights):
    network = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)).double()
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), weights, strict=True):
            parameter.copy_(torch.from_numpy(value))
    return network


def make_step(model, method, optimizer=None, precision="fp32"):
    settings = optimizer or Optimizer(learning_rate=0.05)
    return Step(
        model=model,
        rule=methods.build(method),
        optimizer=make_optimizer(model, settings),
        autocast=functools.partial(autocast, precision, torch.device("cpu")),
        clip_norm=settings.clip_norm,
    )


def resnext(**options):
    torch.manual_seed(0)
    return ResNeXt(blocks=(1, 1), cardinality=2, bottleneck_width=4, stem=8, classes=3, **options)


def image_batch(size=8):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 3, 8, 8, generator=generator), torch.randint(3, (size,), generator=generator)


def bits(tensors):
    return [tensor.detach().clone() for tensor in tensors]


def same_bits(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["plain", "nesterov-decay", "momentum-decay-clip"])
@pytest.mark.parametrize("method", METHODS, ids=name)
def test_25_steps_equal_the_oracle(method, optimizer):
    weights, batches = small_problem()
    network = torch_network(weights)
    step = make_step(network, method, optimizer)
    losses = []
    for x, y in batches:
        stats = step(torch.from_numpy(x), torch.from_numpy(y))
        losses.append(float(stats.loss) / stats.count)
    expected, expected_losses = oracle_amp.train(
        weights,
        batches,
        method=None if isinstance(method, Sgd) else vars(method),
        lr=optimizer.learning_rate,
        momentum=optimizer.momentum,
        nesterov=optimizer.nesterov,
        weight_decay=optimizer.weight_decay,
        clip_norm=optimizer.clip_norm,
    )
    for parameter, value in zip(network.parameters(), expected, strict=True):
        assert np.abs(parameter.detach().numpy() - value).max() < 1e-9
    assert np.abs(np.array(losses) - expected_losses).max() < 1e-9


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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS, ids=name)
def test_batch_norm_counts_a_batch_once_by_the_clean_pass(method, precision):
    images, labels = image_batch()
    model, plain = resnext(), resnext()
    rule = methods.build(method)
    step = make_step(model, method, precision=precision)
    stats = step(images, labels)
    expected = make_step(plain, Sgd(), precision=precision)(images, labels)
    assert same_bits(model.buffers(), plain.buffers())
    assert int(model.bn1.num_batches_tracked) == 1
    assert torch.equal(stats.loss, expected.loss)
    assert torch.equal(stats.correct, expected.correct)
    assert rule is not None


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_weights_come_back_to_the_bit(method):
    images, labels = image_batch()
    model = resnext()
    before = bits(model.parameters())

    def closure():
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()

    methods.build(method)(closure, model.parameters(), model.buffers())
    assert same_bits(before, bits(model.parameters()))
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("failing_call", [1, 2, 3])
def test_weights_and_statistics_come_back_when_the_closure_raises(failing_call):
    images, labels = image_batch()
    model, clean = resnext(), resnext()
    before = bits(model.parameters())
    clean(images)
    calls = 0

    def closure():
        nonlocal calls
        calls += 1
        if calls == failing_call:
            raise RuntimeError("out of memory")
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()

    with pytest.raises(RuntimeError, match="out of memory"):
        methods.amp(closure, model.parameters(), model.buffers(), epsilon=0.5, inner_iter=3)
    assert same_bits(before, bits(model.parameters()))
    if failing_call > 1:
        assert same_bits(clean.buffers(), model.buffers())


@pytest.mark.parametrize("off", [{"epsilon": 0.0}, {"inner_iter": 0}, {"inner_lr": 0.0}])
def test_without_a_perturbation_it_is_plain_training_to_the_bit(off):
    images, labels = image_batch()
    plain, perturbed = resnext(), resnext()
    for _ in range(3):
        make_step(plain, Sgd())(images, labels)
        make_step(perturbed, Amp(**off))(images, labels)
    assert same_bits(plain.state_dict().values(), perturbed.state_dict().values())


def test_parameters_without_a_gradient_stay_and_do_no_harm():
    images, labels = image_batch()
    model = resnext()
    model.conv1.weight.requires_grad_(False)
    model.register_parameter("unused", nn.Parameter(torch.ones(3)))
    before = model.conv1.weight.clone()
    make_step(model, Amp())(images, labels)
    assert torch.equal(model.conv1.weight, before)
    assert torch.equal(model.unused, torch.ones(3))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", [Sgd(), Amp(), Amp(inner_iter=2, ball="global")], ids=name)
def test_saved_and_resumed_equals_never_stopped(method, precision):
    batches = [image_batch(8), image_batch(6)]
    model = resnext()
    step = make_step(model, method, precision=precision)
    for images, labels in batches:
        step(images, labels)
    saved = copy.deepcopy((model.state_dict(), step.optimizer.state_dict()))
    for images, labels in batches:
        step(images, labels)
    resumed = resnext()
    resumed_step = make_step(resumed, method, precision=precision)
    resumed.load_state_dict(saved[0])
    resumed_step.optimizer.load_state_dict(saved[1])
    for images, labels in batches:
        resumed_step(images, labels)
    assert same_bits(model.state_dict().values(), resumed.state_dict().values())


def test_gradient_accumulation_gives_the_whole_batch():
    images, labels = image_batch(8)
    results = []
    for parts in (1, 4):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).double()

        def closure(model=model, parts=parts):
            model.zero_grad()
            for x, y in zip(images.double().chunk(parts), labels.chunk(parts), strict=True):
                (F.cross_entropy(model(x), y) / parts).backward()

        methods.amp(closure, model.parameters(), model.buffers(), epsilon=0.1)
        results.append(bits(p.grad for p in model.parameters()))
    for whole, accumulated in zip(*results, strict=True):
        assert torch.allclose(whole, accumulated, atol=1e-12)
