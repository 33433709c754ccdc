"""A step whose perturbation is made from a part of the batch."""

import contextlib

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flatnext import config
from flatnext.errors import InputError
from flatnext.methods import amp, bind
from flatnext.training import Step, make_optimizer


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)).double()


def batch(count=10):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, 2, 2, generator=generator, dtype=torch.float64)
    return images, torch.randint(4, (count,), generator=generator)


def step(model, settings, **options):
    optimizer = make_optimizer(model, config.Optimizer(learning_rate=0.1))
    method = bind(settings, model, optimizer, total_steps=10)
    return Step(model=model, method=method, autocast=contextlib.nullcontext, **options)


@pytest.mark.parametrize("inner_iter", [1, 2])
def test_the_perturbation_is_made_from_the_first_images(inner_iter):
    images, labels = batch()
    settings = config.Amp(epsilon=0.1, inner_lr=2.0, inner_iter=inner_iter, ascent_share=0.35)
    model, expected = network(), network()
    stats = step(model, settings)(images, labels, 0, len(labels))

    optimizer = make_optimizer(expected, config.Optimizer(learning_rate=0.1))
    sizes = iter([4] * inner_iter + [10])

    def closure():
        count = next(sizes)
        optimizer.zero_grad()
        loss = F.cross_entropy(expected(images[:count]), labels[:count])
        loss.backward()
        return float(loss.detach())

    loss = amp(closure, expected.parameters(), expected.buffers(), epsilon=0.1, inner_lr=2.0, inner_iter=inner_iter)
    optimizer.step()
    assert (stats.count, stats.trained) == (4, 10)
    assert float(stats.loss) == pytest.approx(4 * loss)
    for found, wanted in zip(model.state_dict().values(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        (config.Amp(ascent_share=0.5, inner_iter=0), 0),
        (config.Amp(ascent_share=0.5, epsilon=0.0), 0),
        (config.Amp(ascent_share=0.5, inner_lr=0.0), 0),
        (config.Amp(ascent_share=0.5, perturb_every=4), 1),
        (config.Amp(ascent_share=0.5, radius_schedule="warmup"), 0),
        (config.method.Sam(ascent_share=0.5, rho=0.0), 0),
    ],
)
def test_a_step_without_a_perturbation_has_the_whole_batch(settings, number):
    images, labels = batch()
    model, expected = network(), network()
    stats = step(model, settings)(images, labels, number, len(labels))
    step(expected, config.Sgd())(images, labels, number, len(labels))
    assert stats.count == 10
    for found, wanted in zip(model.state_dict().values(), expected.state_dict().values(), strict=True):
        assert torch.equal(found, wanted)


def test_each_micro_batch_keeps_two_images():
    images, labels = batch()
    stats = step(network(), config.method.Asam(ascent_share=0.01), grad_accum_steps=3)(images, labels, 0, len(labels))
    assert (stats.count, stats.trained) == (6, 10)


@pytest.mark.parametrize(
    ("count", "grad_accum_steps", "expected"), [(7, 3, [3, 2, 2]), (10, 4, [3, 3, 2, 2]), (2, 3, [1, 1])]
)
def test_micro_batches_are_as_equal_as_can_be(count, grad_accum_steps, expected):
    class Counts(nn.Sequential):
        def forward(self, images):
            sizes.append(len(images))
            return super().forward(images)

    sizes = []
    images, labels = batch(count)
    model = Counts(nn.Flatten(), nn.Linear(12, 4)).double()
    step(model, config.Sgd(), grad_accum_steps=grad_accum_steps)(images, labels, 0, count)
    assert sizes == expected


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"ascent_share": 0.5}, "ascent_share=0.5"),
        ({"m_sharpness": True}, "m_sharpness"),
        ({"ascent_share": 0.5, "m_sharpness": True}, "ascent_share=0.5 and m_sharpness"),
    ],
)
def test_a_loop_of_ones_own_is_told_what_its_closure_has_to_do(settings, names):
    images, labels = batch()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = bind(config.Amp(epsilon=0.1, **settings), model, optimizer, total_steps=10)
    calls = []

    def closure():
        calls.append(count := round(method.share(0, len(calls)) * len(labels)))
        optimizer.zero_grad()
        F.cross_entropy(model(images[:count]), labels[:count]).backward()

    with pytest.raises(InputError, match=f"^{names}: only flatnext train"):
        method(closure, images, 0)
    assert not calls
    method(closure, images, 0, divides=True)
    assert calls == [round(settings.get("ascent_share", 1.0) * 10), 10]


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_a_share_that_is_none(share):
    with pytest.raises(InputError, match="ascent_share"):
        config.Amp(ascent_share=share)


def test_frozen_statistics_are_not_averaged_over_processes():
    """The mean of equal numbers of several processes may be another number."""

    class Three:
        count, rank = 3, 0

        def sum(self, tensors):
            list(tensors)

        def average(self, tensors):
            self.averaged = list(tensors)

    model, processes, (images, labels) = network(), Three(), batch()
    model.insert(2, nn.BatchNorm1d(8).double())
    model[2].eval()
    step(model, config.Sgd(), processes=processes)(images, labels, 0, len(labels))
    assert [id(tensor) for tensor in processes.averaged] == [id(model[3].running_mean), id(model[3].running_var)]
