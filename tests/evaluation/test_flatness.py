"""Measures of flatness against losses whose shape is known, torch.func and NumPy; and what they leave alone."""

from __future__ import annotations

import copy
import functools
import itertools
import math

import numpy as np
import pytest
import torch
from methods_table import MEAN, STD, bits, bn_network, same_bits
from predictors import predictor_of
from torch import nn
from torch.nn import functional as F

from flatnext import config, models
from flatnext.data import Split
from flatnext.errors import InputError
from flatnext.evaluation import flatness
from flatnext.evaluation.flatness import Objective
from flatnext.methods import amp, asam, sam
from flatnext.progress import silent
from flatnext.schema import dump

ROWS, COLUMNS = 3, 4
SIZE = ROWS * COLUMNS + 2


class Bowl(nn.Module):
    """The loss ``w'Hw / 2 + b'w`` of the weights w, a matrix and a vector, the same for every image."""

    def __init__(self, hessian, slope=None, weights=None):
        super().__init__()
        weights = torch.zeros(SIZE, dtype=torch.float64) if weights is None else weights
        self.matrix = nn.Parameter(weights[: ROWS * COLUMNS].view(ROWS, COLUMNS).clone())
        self.vector = nn.Parameter(weights[ROWS * COLUMNS :].clone())
        self.register_buffer("hessian", hessian)
        self.register_buffer("slope", torch.zeros(SIZE, dtype=torch.float64) if slope is None else slope)

    def forward(self, images):
        w = torch.cat([self.matrix.flatten(), self.vector])
        return (w @ self.hessian @ w / 2 + self.slope @ w).expand(len(images))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(count=5, size=4, seed=0, classes=3):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return Split(pixels, torch.randint(classes, (count,), generator=generator))


def with_eigenvalues(values, seed=0):
    q, _ = torch.linalg.qr(normal(len(values), len(values), seed=seed))
    return (q * torch.as_tensor(values, dtype=torch.float64)) @ q.T, q


def bowl(hessian, slope=None, weights=None, count=5):
    model = Bowl(hessian, slope, weights)
    return objective_of(model, images(count), "fp64", batch_size=2, loss=lambda outputs, labels: outputs.mean())


def objective_of(model, split, precision="fp32", *, channels_last=True, **options):
    return Objective(predictor_of(model, MEAN, STD, precision=precision, channels_last=channels_last), split, **options)


def network_loss(precision="fp64", **options):
    return objective_of(bn_network(), images(7), precision, **{"batch_size": 3, **options})


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


# The Hessian


def test_lanczos_on_as_many_steps_as_weights_finds_all_eigenvalues():
    wanted = torch.linspace(-2, 7, SIZE, dtype=torch.float64) ** 3 / 10
    hessian, _ = with_eigenvalues(wanted)
    found = flatness.hessian_eigenvalues(bowl(hessian), SIZE, steps=100, tolerance=0)
    np.testing.assert_allclose(found.values, wanted.flip(0), rtol=1e-9, atol=1e-9)
    assert (found.steps, found.dimension, found.count, found.precision) == (SIZE, SIZE, 5, "fp64")
    assert found.smallest == found.values[-1]


@pytest.mark.parametrize("values", [[3.0] * 5 + [-1.0] * 4 + [0.0] * 5, [0.0] * SIZE, [2.0] * SIZE])
def test_equal_eigenvalues_are_found_as_often_as_they_occur(values):
    hessian, _ = with_eigenvalues(values)
    found = flatness.hessian_eigenvalues(bowl(hessian), SIZE, steps=SIZE)
    np.testing.assert_allclose(found.values, sorted(values, reverse=True), atol=1e-9)
    largest = flatness.hessian_eigenvalues(bowl(hessian), 2, steps=SIZE)
    np.testing.assert_allclose(largest.values, found.values[:2], atol=1e-9)


def test_the_largest_eigenvalue_takes_few_steps_and_its_residual_holds():
    wanted = [*np.linspace(-1, 1, SIZE - 2), 9.0, 20.0]
    hessian, _ = with_eigenvalues(wanted)
    found = flatness.hessian_eigenvalues(bowl(hessian), 2, tolerance=1e-3)
    assert found.converged
    assert found.steps < 10
    assert found.values == pytest.approx((20, 9), rel=1e-5)
    for value, residual in zip(found.values, found.residuals, strict=True):
        assert min(abs(value - w) for w in wanted) <= residual <= 1e-3 * 20
    hasty = flatness.hessian_eigenvalues(bowl(hessian), 2, steps=2, tolerance=1e-3)
    assert not hasty.converged
    assert hasty.steps == 2
    assert all(min(abs(v - w) for w in wanted) <= r for v, r in zip(hasty.values, hasty.residuals, strict=True))


def test_all_negative_and_where_the_weights_are_does_not_matter():
    hessian, _ = with_eigenvalues(-np.arange(1.0, SIZE + 1))
    found = flatness.hessian_eigenvalues(bowl(hessian, normal(SIZE), normal(SIZE, seed=1)), steps=SIZE, tolerance=1e-9)
    assert found.values == pytest.approx([-1.0])
    assert found.smallest == pytest.approx(-SIZE)


def softmax_regression():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(normal(*parameter.shape, seed=2) / 3)
    return model, images(9, size=2)


def inputs(split, dtype=torch.float64):
    mean, std = (torch.tensor(values, dtype=dtype).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (split.images.to(dtype) / 255 - mean) / std


# Forward-mode differentiation compiles its formulas when it is first used.
without_script_warning = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def full_hessian(model, split):
    """Return the Hessian of the mean cross-entropy by torch.func."""
    names, shapes = zip(*[(name, p.shape) for name, p in model.named_parameters()], strict=True)
    pixels = inputs(split)

    def loss(vector):
        parts = vector.split([shape.numel() for shape in shapes])
        weights = {n: part.view(shape) for n, part, shape in zip(names, parts, shapes, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, weights, (pixels,)), split.labels)

    return torch.func.hessian(loss)(flat(model.parameters()))


@without_script_warning
def test_softmax_regression_has_the_hessian_of_torch_func():
    model, split = softmax_regression()
    wanted = full_hessian(model, split)
    # By hand: the mean over images of (diag(p) - pp') times the outer product of the image, with a 1 for the bias.
    x = inputs(split).flatten(1)
    p = model[1](x).softmax(dim=1).detach()
    a = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    by_hand = torch.einsum("nij,nk,nl->ikjl", a, x, x).reshape(36, 36) / len(x)
    torch.testing.assert_close(wanted[:36, :36], by_hand)
    objective = objective_of(model, split, "fp64", batch_size=4)
    found = torch.stack([objective.hessian_product(e) for e in torch.eye(39, dtype=torch.float64)])
    torch.testing.assert_close(found, wanted)
    largest = flatness.hessian_eigenvalues(objective, 3, steps=39, tolerance=1e-8)
    np.testing.assert_allclose(largest.values, torch.linalg.eigvalsh(wanted).flip(0)[:3], rtol=1e-8)
    trace = flatness.hessian_trace(objective, probes=200)
    assert abs(trace.trace - float(wanted.trace())) < 4 * trace.standard_error


@without_script_warning
@pytest.mark.parametrize(("precision", "rtol"), [("fp64", 1e-9), ("fp32", 1e-4)])
@pytest.mark.parametrize("channels_last", [True, False])
def test_a_network_with_batch_norm_has_the_hessian_of_its_evaluation_mode(precision, rtol, channels_last):
    objective = network_loss(precision, channels_last=channels_last)
    model = bn_network("fp64").eval()
    wanted = full_hessian(model, images(7))
    vector = normal(objective.dimension)
    found = objective.hessian_product(vector.to(objective.parameters[0].dtype))
    np.testing.assert_allclose(found, wanted @ vector, rtol=0, atol=rtol * float((wanted @ vector).norm()))
    largest = flatness.hessian_eigenvalues(objective, tolerance=1e-3)
    assert largest.values[0] == pytest.approx(float(torch.linalg.eigvalsh(wanted)[-1]), rel=max(rtol, 1e-4))
    trace = flatness.hessian_trace(objective, probes=60)
    assert abs(trace.trace - float(wanted.trace())) < 4 * trace.standard_error


@pytest.mark.parametrize(
    "settings",
    [
        {"block": "resnext", "cardinality": 4, "bottleneck_width": 4},
        {"block": "sk", "cardinality": 4, "bottleneck_width": 4},
        {"block": "preact", "cardinality": 1, "bottleneck_width": 16},
    ],
    ids=lambda settings: settings["block"],
)
def test_products_of_real_blocks_are_differences_of_gradients(settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.build(config.Model(blocks=(1, 1), stem=16, **settings), 3)
    objective = objective_of(model, images(4, size=8), "fp64")
    vector = normal(objective.dimension)
    found = objective.hessian_product(vector)
    theta, step = flat(objective.parameters), 1e-8 * vector  # so short that no ReLU switches on the way
    slopes = []
    for weights in (theta + step, theta - step):
        nn.utils.vector_to_parameters(weights, objective.parameters)
        slopes.append(flat(objective.gradient()[1]))
    wanted = (slopes[0] - slopes[1]) / 2e-8
    assert float(wanted.norm()) > 0
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6 * float(wanted.norm()))


def test_trace_is_exact_for_a_diagonal_and_its_error_is_that_of_theory():
    diagonal = torch.linspace(-1, 5, SIZE, dtype=torch.float64)
    exact = flatness.hessian_trace(bowl(torch.diag(diagonal)), probes=3)
    assert exact.samples == pytest.approx([float(diagonal.sum())] * 3)
    assert exact.standard_error == pytest.approx(0, abs=1e-12)
    hessian, _ = with_eigenvalues(diagonal)
    found = flatness.hessian_trace(bowl(hessian), probes=1000)
    off = hessian - torch.diag(hessian.diagonal())
    theory = math.sqrt(2 * float(off.square().sum()) / 1000)
    assert found.standard_error == pytest.approx(theory, rel=0.1)
    assert abs(found.trace - float(diagonal.sum())) < 4 * theory
    assert flatness.hessian_trace(bowl(hessian), probes=1).standard_error is None


def test_probes_are_the_same_however_many_share_a_graph(monkeypatch):
    together = flatness.hessian_trace(network_loss(), probes=5).samples
    monkeypatch.setattr(flatness.hessian, "PROBES_AT_ONCE", 1)
    assert flatness.hessian_trace(network_loss(), probes=5).samples == pytest.approx(together, rel=1e-10)


def test_a_loss_that_is_linear_has_no_curvature():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    model.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
    objective = objective_of(model, images(3, size=2), "fp64", loss=lambda outputs, labels: outputs.mean())
    assert flatness.hessian_trace(objective, probes=2).samples == (0, 0)
    found = flatness.hessian_eigenvalues(objective)
    assert (found.values, found.steps, found.converged) == ((0.0,), 1, True)
    assert float(objective.slope[0].norm()) == 0


# The landscape


def numpy_directions(weights, seed, number):
    """Draw filter-normalised directions, filter by filter."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(number):
        parts = []
        for weight in map(np.asarray, weights):
            noise = torch.randn(*weight.shape, generator=generator).numpy().astype(np.float64)
            if weight.ndim == 1:
                noise = np.zeros_like(noise)
            else:
                for i, filter_ in enumerate(noise):
                    noise[i] = filter_ / np.sqrt((filter_**2).sum()) * np.sqrt((weight[i] ** 2).sum())
            parts.append(noise.ravel())
        found.append(np.concatenate(parts))
    return found


def value(hessian, slope, w):
    hessian, slope, w = map(np.asarray, (hessian, slope, w))
    return w @ hessian @ w / 2 + slope @ w


def hilly():
    """Return Hessian, slope and weights of a quadratic that is neither convex nor at its minimum."""
    hessian, _ = with_eigenvalues(np.linspace(-3, 9, SIZE))
    return hessian, normal(SIZE, seed=1), normal(SIZE, seed=2)


def test_curve_of_a_quadratic():
    hessian, slope, weights = hilly()
    objective = bowl(hessian, slope, weights)
    radii = (-0.5, 0, 0.1, 2.0)
    found = flatness.loss_curve(objective, radii, directions=3, seed=4)
    directions = numpy_directions(objective.detached(), 4, 3)
    wanted = [[value(hessian, slope, weights.numpy() + r * d) for r in radii] for d in directions]
    np.testing.assert_allclose(found.losses, wanted, rtol=1e-6)  # the direction's norms are taken in float64 there
    np.testing.assert_allclose(found.mean, np.mean(wanted, axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.sd, np.std(wanted, axis=0, ddof=1), rtol=1e-6, atol=1e-12)
    assert found.centre == pytest.approx(value(hessian, slope, weights))
    assert {row[1] for row in found.losses} == {found.centre}
    assert found.unit == pytest.approx(float(weights[: ROWS * COLUMNS].norm()))
    assert [float(np.linalg.norm(d)) for d in directions] == pytest.approx([found.unit] * 3)


def test_curve_along_the_gradient():
    hessian, slope, weights = hilly()
    radii = (-0.1, 0.1, 1.0)
    found = flatness.gradient_curve(bowl(hessian, slope, weights), radii)
    up = hessian @ weights + slope
    up /= up.norm()
    assert found.losses[0] == pytest.approx([value(hessian, slope, weights + r * up) for r in radii])
    assert found.losses[0][0] < found.centre < found.losses[0][1]
    assert (found.unit, found.sd, found.mean) == (1, None, found.losses[0])


def test_surface_of_a_quadratic():
    hessian, slope, weights = hilly()
    objective = bowl(hessian, slope, weights)
    found = flatness.loss_surface(objective, extent=0.5, points=5, seed=1)
    first, second = numpy_directions(objective.detached(), 1, 2)
    assert found.positions == (-0.5, -0.25, 0, 0.25, 0.5)
    wanted = [
        [value(hessian, slope, weights.numpy() + a * first + b * second) for b in found.positions]
        for a in found.positions
    ]
    np.testing.assert_allclose(found.losses, wanted, rtol=1e-6)
    assert found.losses[2][2] == found.centre == objective.value()
    assert found.cosine == pytest.approx(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


def test_curve_and_surface_of_a_network_are_those_of_a_network_with_these_weights():
    objective = network_loss()
    seen = flatness.loss_curve(objective, [0.3], directions=2, seed=5)
    surface = flatness.loss_surface(objective, extent=0.3, points=3, seed=5)
    model = bn_network("fp64").eval()
    theta = flat(model.parameters())
    wanted = []
    for direction in numpy_directions([p.detach() for p in model.parameters()], 5, 2):
        nn.utils.vector_to_parameters(theta + 0.3 * torch.from_numpy(direction), model.parameters())
        wanted.append([float(F.cross_entropy(model(inputs(images(7))), images(7).labels).detach())])
    np.testing.assert_allclose(seen.losses, wanted, rtol=1e-6)
    assert surface.losses[2][1] == pytest.approx(seen.losses[0][0], rel=1e-12)
    assert surface.losses[1][2] == pytest.approx(seen.losses[1][0], rel=1e-12)


# Sharpness


def test_sam_and_amp_on_a_quadratic_by_hand():
    hessian, slope, weights = hilly()
    objective = bowl(hessian, slope, weights)
    up = hessian @ weights + slope
    radii = [0.0, 0.1, 50.0]
    by_hand = [r * up / up.norm() for r in radii]
    sam_found = flatness.sam_sharpness(objective, radii)
    start = value(hessian, slope, weights)
    wanted = [max(value(hessian, slope, weights + d) - start, 0) for d in by_hand]
    assert [s.increase for s in sam_found] == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    parts = up.split([ROWS * COLUMNS, SIZE - ROWS * COLUMNS])
    amp_found = flatness.amp_sharpness(objective, [0.1, 1e6], inner_lr=0.2)
    deltas = [torch.cat([g * min(0.2, 0.1 / float(g.norm())) for g in parts]), 0.2 * up]
    assert [s.worst for s in amp_found] == pytest.approx([value(hessian, slope, weights + d) for d in deltas])
    assert [s.distance for s in amp_found] == pytest.approx([float(d.norm()) for d in deltas])
    (whole,) = flatness.amp_sharpness(objective, [0.1], ball="global")
    assert whole.worst == pytest.approx(sam_found[1].worst)


@pytest.mark.parametrize(
    ("measure", "rule", "passes"),
    [
        (functools.partial(flatness.amp_sharpness, radii=[0.3]), functools.partial(amp, epsilon=0.3), 1),
        (
            functools.partial(flatness.amp_sharpness, radii=[0.3], inner_lr=4.0, inner_iter=3, ball="global"),
            functools.partial(amp, epsilon=0.3, inner_lr=4.0, inner_iter=3, ball="global"),
            3,
        ),
        (functools.partial(flatness.sam_sharpness, radii=[0.2]), functools.partial(sam, rho=0.2), 1),
        (functools.partial(flatness.asam_sharpness, radii=[1.5]), functools.partial(asam, rho=1.5), 1),
    ],
    ids=["amp", "amp-3", "sam", "asam"],
)
def test_the_methods_meet_the_losses_that_training_would_meet(measure, rule, passes):
    model = bn_network("fp64").eval()
    losses = []

    def closure():
        model.zero_grad()
        loss = F.cross_entropy(model(inputs(images(7))), images(7).labels)
        loss.backward()
        losses.append(float(loss.detach()))

    rule(closure, model.parameters(), model.buffers())
    (found,) = measure(network_loss())
    assert len(losses) == passes + 1
    assert found.loss == pytest.approx(losses[0])
    assert found.worst == pytest.approx(max(losses))
    assert found.increase == pytest.approx(max(losses) - losses[0], rel=1e-6)
    assert found.steps == passes


def test_a_loss_that_is_not_a_number_is_said():
    objective = bowl(torch.full((SIZE, SIZE), 1e308, dtype=torch.float64), normal(SIZE))
    found = [*flatness.sam_sharpness(objective, [1e200]), flatness.loss_curve(network_loss("fp32"), [1e30])]
    assert dump(found[0])["worst"] is None
    assert dump(found[1])["losses"][0] == [None]


# What all of them have in common

MEASURES = {
    "loss_curve": (lambda o, p: flatness.loss_curve(o, [0.1, 0.2], directions=2, progress=p), 4),
    "gradient_curve": (lambda o, p: flatness.gradient_curve(o, [0.1], progress=p), 1),
    "loss_surface": (lambda o, p: flatness.loss_surface(o, points=3, progress=p), 9),
    "amp": (lambda o, p: flatness.amp_sharpness(o, [0.1, 0.5], inner_iter=2, progress=p), 2),
    "sam": (lambda o, p: flatness.sam_sharpness(o, progress=p), 1),
    "asam": (lambda o, p: flatness.asam_sharpness(o, progress=p), 1),
    "eigenvalues": (lambda o, p: flatness.hessian_eigenvalues(o, steps=3, tolerance=0, progress=p), 3),
    "trace": (lambda o, p: flatness.hessian_trace(o, probes=6, progress=p), 6),
}


def state_of(model):
    flags = [(p.requires_grad, p.data_ptr()) for p in model.parameters()], [m.training for m in model.modules()]
    return bits([*model.parameters(), *model.buffers()]), bits(p.grad for p in model.parameters()), flags


@pytest.mark.parametrize("name", MEASURES)
def test_nothing_is_changed_and_it_is_the_same_again(name):
    measure, total = MEASURES[name]
    model = bn_network().train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, generator = state_of(model), torch.get_rng_state()
    objective = objective_of(model, images(7), batch_size=4)
    own = bits(objective.parameters)
    calls = []
    first = measure(objective, lambda done, total: calls.append((done, total)))
    after = state_of(model)
    assert same_bits(before[0], after[0])
    assert same_bits(before[1], after[1])
    assert before[2] == after[2]
    assert torch.equal(generator, torch.get_rng_state())
    assert same_bits(own, objective.parameters)
    assert all(p.grad is None for p in objective.parameters)
    assert calls[-1] == (total, total)
    assert all(a < b for a, b in itertools.pairwise(calls))
    assert measure(objective, silent) == first
    for each in first if isinstance(first, tuple) else [first]:
        assert each.count == 7


@pytest.mark.parametrize("name", MEASURES)
def test_weights_are_put_back_when_a_pass_fails(name):
    objective = network_loss("fp32")
    own = bits(objective.parameters)
    _ = objective.slope
    calls = 0

    def failing(outputs, labels):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("no more memory")
        return F.cross_entropy(outputs, labels)

    objective._loss = failing
    with pytest.raises(RuntimeError, match="no more memory"):
        MEASURES[name][0](objective, silent)
    assert same_bits(own, objective.parameters)
    assert all(p.grad is None for p in objective.parameters)


def test_value_and_gradient_are_torchs_whatever_the_batch():
    model = bn_network("fp64").eval()
    loss = F.cross_entropy(model(inputs(images(7))), images(7).labels)
    wanted = flat(torch.autograd.grad(loss, list(model.parameters())))
    for size in (1, 3, 7, 100):
        objective = network_loss(batch_size=size)
        assert objective.value() == pytest.approx(float(loss.detach()), rel=1e-12)
        torch.testing.assert_close(flat(objective.gradient()[1]), wanted)


def test_bf16_is_near_but_has_no_hessian():
    near = network_loss("bf16")
    assert near.clean == pytest.approx(network_loss().clean, abs=0.05)
    assert flatness.sam_sharpness(near, [0.2])[0].increase == pytest.approx(
        flatness.sam_sharpness(network_loss(), [0.2])[0].increase, rel=0.2
    )
    for measure in (flatness.hessian_trace, flatness.hessian_eigenvalues):
        with pytest.raises(InputError, match="precision is bf16"):
            measure(near)


def test_deep_copies_are_independent():
    model = bn_network()
    objective = objective_of(model, images(7))
    before = objective.clean
    with torch.no_grad():
        copy.copy(model)[0].weight.zero_()
    assert objective.value() == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda o: flatness.loss_curve(o, []), "radii are"),
        (lambda o: flatness.loss_curve(o, [math.nan]), "radii are"),
        (lambda o: flatness.loss_curve(o, directions=0), "directions is 0"),
        (lambda o: flatness.loss_surface(o, points=4), "points is 4"),
        (lambda o: flatness.loss_surface(o, extent=0), "extent is 0"),
        (lambda o: flatness.sam_sharpness(o, [-1]), "radius is -1"),
        (lambda o: flatness.amp_sharpness(o, [0.1], inner_lr=-1), "inner_lr is -1"),
        (lambda o: flatness.amp_sharpness(o, [0.1], ball="all"), "ball is 'all'"),
        (lambda o: flatness.asam_sharpness(o, [0.1], eta=-1), "eta is -1"),
        (lambda o: flatness.hessian_eigenvalues(o, 0), "number is 0"),
        (lambda o: flatness.hessian_eigenvalues(o, 3, steps=2), "steps is 2"),
        (lambda o: flatness.hessian_eigenvalues(o, 10**6, steps=10**6), "number is 1000000"),
        (lambda o: flatness.hessian_eigenvalues(o, tolerance=-1), "tolerance is -1"),
        (lambda o: flatness.hessian_trace(o, probes=0), "probes is 0"),
    ],
)
def test_bad_settings(call, message):
    with pytest.raises(InputError, match=message):
        call(network_loss("fp32"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "fp16"}, "precision is 'fp16'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"model": nn.Flatten()}, "no parameters"),
        ({"split": images(0)}, "no images"),
    ],
)
def test_bad_objectives(changes, message):
    arguments = {"model": bn_network(), "split": images(), **changes}
    with pytest.raises(InputError, match=message):
        objective_of(**arguments)


def test_what_cannot_be_measured_is_said():
    flat_bowl = bowl(torch.zeros(SIZE, SIZE, dtype=torch.float64))
    with pytest.raises(InputError, match="no direction"):
        flatness.gradient_curve(flat_bowl, [0.1])
    with pytest.raises(InputError, match="no filter"):
        flatness.loss_curve(flat_bowl)
    broken = bowl(torch.full((SIZE, SIZE), math.nan, dtype=torch.float64))
    for measure in (flatness.hessian_trace, flatness.hessian_eigenvalues):
        with pytest.raises(InputError, match="not finite"):
            measure(broken)
