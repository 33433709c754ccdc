"""FAB: its projections against linear programs and bisection, its walk against a plain one in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attack_models import MEAN, SIDE, STD, linear, tiny_net
from predictors import predictor_of
from scipy.optimize import linprog
from torch import nn

from flatnext.errors import InputError
from flatnext.evaluation.attacks import robustness
from flatnext.evaluation.attacks.attacked_model import AttackedModel, frozen
from flatnext.evaluation.attacks.ball import Ball
from flatnext.evaluation.attacks.fab import FAB, to_plane
from flatnext.evaluation.attacks.search import Draws

# The projections


def least_linf(x, w, gap):
    """Return the least largest change with w . change = gap and x + change in [0, 1], by a linear program; or None."""
    n = len(x)
    objective = np.r_[np.zeros(n), 1.0]
    within = np.block([[np.eye(n), -np.ones((n, 1))], [-np.eye(n), -np.ones((n, 1))]])
    found = linprog(
        *(objective, within, np.zeros(2 * n), np.r_[w, 0.0][None], [gap]),
        bounds=[*zip(-x, 1 - x, strict=True), (0, None)],
    )
    assert found.status in (0, 2)  # solved, or infeasible
    return found.fun if found.status == 0 else None


def by_bisection(x, w, gap, norm):
    """Return the least change: along the sign of w, or w, as far as the pixels go; halving finds how far along."""
    scale = np.abs(w).max() * (1 if gap >= 0 else -1)
    w, gap = w / scale, gap / scale
    direction = np.sign(w) if norm == "linf" else w

    def change(t):
        return np.clip(t * direction, -x, 1 - x)

    low, high = 0.0, 1.0
    while w @ change(high) < gap and high < 1e9:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if w @ change(middle) < gap else (low, middle)
    return change(high)


def problems(count=60, seed=0):
    """Return images (3 x 2 x 2), normals and gaps: pixels at 0 and 1, entries that are 0, planes that miss [0, 1]."""
    random = np.random.default_rng(seed)
    x = random.random((count, 12))
    x[::3, :4], x[::4, 2:5] = 0.0, 1.0
    w = random.standard_normal((count, 12)) * 10.0 ** random.integers(-6, 6, (count, 1))
    w[::5, 3:6] = 0.0
    reach = np.maximum(w * (1 - x), -w * x).sum(1), np.minimum(w * (1 - x), -w * x).sum(1)
    share = random.random(count) * 1.3  # one in four is out of reach
    share[0] = 0.0
    gap = share * np.where(np.arange(count) % 2, reach[0], reach[1])
    return x, w, gap, share > 1


def projected(x, w, gap, norm, dtype=torch.float64):
    as_images = [torch.from_numpy(value).reshape(-1, 3, 2, 2).to(dtype) for value in (x, w)]
    change = to_plane(*as_images, torch.from_numpy(gap).to(dtype), norm)
    assert change.dtype == dtype
    return change.flatten(1).double().numpy()


def test_linf_projection_is_the_linear_programs():
    x, w, gap, missed = problems()
    found = projected(x, w, gap, "linf")
    assert 5 < missed.sum() < 30
    for change, *problem, miss in zip(found, x, w, gap, missed, strict=True):
        scale = np.abs(problem[1]).max()
        least = least_linf(problem[0], problem[1] / scale, problem[2] / scale)
        assert (least is None) == miss
        if not miss:
            assert np.abs(change).max() == pytest.approx(least, abs=1e-9)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projections_are_those_by_bisection_and_on_the_plane(norm):
    x, w, gap, missed = problems(seed=1)
    found = projected(x, w, gap, norm)
    assert (x + found).min() >= -1e-12
    assert (x + found).max() <= 1 + 1e-12
    wanted = np.array([by_bisection(*each, norm) for each in zip(x, w, gap, strict=True)])
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    np.testing.assert_allclose((w * found).sum(1)[~missed], gap[~missed], rtol=1e-9)
    corner = np.where(np.sign(w) * np.sign(gap)[:, None] > 0, 1 - x, -x) * (w != 0)
    np.testing.assert_allclose(found[missed], corner[missed], atol=1e-12)  # as near as an image gets
    assert (found[0] == 0).all()


def test_l2_projection_is_better_than_other_points_of_the_plane():
    x, w, gap, missed = problems(seed=2)
    found = projected(x, w, gap, "l2")
    random = np.random.default_rng(3)
    for change, pixels, normal, miss in zip(found, x, w, missed, strict=True):
        if not miss:
            aside = random.standard_normal((200, 12)) * 0.05
            aside -= np.outer(aside @ normal, normal) / (normal @ normal)
            other = change + aside
            inside = ((pixels + other >= 0) & (pixels + other <= 1)).all(1)
            assert (np.linalg.norm(other[inside], axis=1) >= np.linalg.norm(change) - 1e-12).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection_in_single_precision_at_full_size(norm):
    random = np.random.default_rng(0)
    x, w = random.random((8, 3072)), random.standard_normal((8, 3072)) * 1e-20
    gap = 0.2 * np.abs(w).sum(1) * random.random(8)
    as_images = [torch.from_numpy(value).reshape(-1, 3, 32, 32).float() for value in (x, w)]
    change = to_plane(*as_images, torch.from_numpy(gap).float(), norm).flatten(1).double().numpy()
    wanted = np.array([by_bisection(*each, norm) for each in zip(x, w, gap, strict=True)])
    np.testing.assert_allclose(change, wanted, atol=1e-5)
    np.testing.assert_allclose((w * change).sum(1), gap, rtol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_plane_is_no_change(norm):
    images = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert (to_plane(images, torch.zeros_like(images), torch.tensor([0.0, 1.0, -2.0]), norm) == 0).all()


# The walk


def watched(attacked):
    """Return a list that will hold the images whose logits alone the attacked is asked for."""
    seen, answer = [], attacked.predict
    attacked.predict = lambda images: seen.append(images) or answer(images)
    return seen


class Small:
    """A network with one hidden layer of tanh, in NumPy: logits, and the gradient of a difference of two."""

    def __init__(self, model):
        self.v, self.c, self.w, self.b = (p.detach().numpy() for p in model.parameters())

    def logits(self, x):
        return self.w @ np.tanh(self.v @ x + self.c) + self.b

    def gradient(self, x, label, goal):
        hidden = np.tanh(self.v @ x + self.c)
        return self.v.T @ ((1 - hidden**2) * (self.w[goal] - self.w[label]))


def small_net(classes=4):
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(27, 16), nn.Tanh(), nn.Linear(16, classes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.7)
    images = torch.rand(6, 3, 3, 3, generator=generator, dtype=torch.float64)
    images[:, :, 0] = images[:, :, 0].round()
    return model, images, model(images).argmax(1)


def numpy_fab(net, clean, label, goal, norm, steps):
    """Return the points that FAB's run asks the network about after each step."""
    x, points = clean, []
    for _ in range(steps):
        z, w = net.logits(x), net.gradient(x, label, goal)
        f = z[goal] - z[label]
        d1, d2 = (by_bisection(p, w, -f - w @ (p - x), norm) for p in (x, clean))
        n1, n2 = (max(np.abs(d).max() if norm == "linf" else np.linalg.norm(d), 1e-8) for d in (d1, d2))
        alpha = min(n1 / (n1 + n2), 0.1)
        x = np.clip((1 - alpha) * (x + 1.05 * d1) + alpha * (clean + 1.05 * d2), 0, 1)
        points.append(x)
        if net.logits(x).argmax() != label:
            x = clean + 0.9 * (x - clean)
    return points


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_walk_is_that_of_numpy(norm):
    model, images, labels = small_net()
    with frozen(model):
        attacked = AttackedModel(predictor_of(model, precision="fp64", channels_last=False))
        seen = watched(attacked)
        ball = Ball(norm, 1e-3)  # nothing is found in so small a ball: all runs are whole
        found = FAB(steps=15, targets=2)(attacked, images, labels, ball, Draws(0, range(6)))
    assert not found.fooled.any()
    points = torch.stack(seen[1:]).reshape(2, 15, 6, 27)  # after the clean images: targets x steps
    net = Small(model)
    crossed = 0
    for run in range(2):
        for i in range(6):
            clean, label = images[i].flatten().numpy(), int(labels[i])
            ranks = [c for c in np.argsort(-net.logits(clean)) if c != label]
            wanted = numpy_fab(net, clean, label, ranks[run], norm, 15)
            np.testing.assert_allclose(points[run, :, i].numpy(), wanted, atol=1e-7)
            crossed += sum(net.logits(x).argmax() != label for x in wanted)
    assert 20 < crossed < 180  # points on both sides of the boundary


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_linear_models_least_changes(norm):
    model, by_pixel, offset, images, labels = linear(4, seed=3)
    images = ((images[:24] - 0.5) * 3 + 0.5).clamp(0, 1)  # a third of the pixels are 0 or 1
    labels = (images.flatten(1) @ by_pixel.T + offset).argmax(1)
    exact = []
    for x, y in zip(images.flatten(1).numpy(), labels.tolist(), strict=True):
        sizes = []
        for j in range(4):
            if j != y:
                w = (by_pixel[j] - by_pixel[y]).numpy()
                gap = -float(w @ x + offset[j] - offset[y])
                change = by_bisection(x, w, gap, norm)
                assert w @ change == pytest.approx(gap)
                sizes.append(least_linf(x, w, gap) if norm == "linf" else np.linalg.norm(change))
        exact.append(min(sizes))
    exact = 255 * np.array(exact)
    predictor = predictor_of(model, MEAN, STD, precision="fp64")
    for share in (0.2, 0.5, 0.9):
        budget = np.quantile(exact, share)
        found = robustness(predictor, images, labels, attacks=[FAB(steps=10)], norm=norm, budget=budget).robust.numpy()
        assert found[exact > budget].all()
        assert not found[exact < budget / 1.006].any()  # it goes 5 % too far, and comes back


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_it_finds_fools_and_is_in_the_ball(norm):
    model, images, labels = tiny_net()
    budget = 8.0 if norm == "linf" else 60.0

    def attack(fab, budget):
        return robustness(predictor_of(model, MEAN, STD), images, labels, attacks=[fab], norm=norm, budget=budget)

    found = attack(FAB(steps=20), budget)
    delta = (found.images - images / 255).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert size.max() <= budget / 255
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    assert (size[found.robust] == 0).all()
    mean, std = (torch.tensor(value).reshape(1, 3, 1, 1) for value in (MEAN, STD))
    with torch.no_grad():
        right = model((found.images - mean) / std).argmax(1) == labels
    assert torch.equal(right, found.robust)
    assert 0 < found.result.robust_accuracy < 1
    wider = attack(FAB(steps=20), 1.5 * budget)
    assert not (wider.robust & ~found.robust).any()  # the walk is the same: it ends sooner


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_images_walk_does_not_depend_on_its_batch(norm):
    model, images, labels = tiny_net()
    own, ball = FAB(steps=4, targets=2), Ball(norm, 0.1)  # all images stand: their walks are whole
    pixels = images.double() / 255

    def walks(size):
        seen = []
        for index in torch.arange(40).split(size):
            attacked = AttackedModel(predictor_of(model, MEAN, STD, precision="fp64"))
            points = watched(attacked)
            found = own(attacked, pixels[index], labels[index], ball, Draws(0, index.tolist()))
            assert not found.fooled.any()
            assert torch.equal(found.images, pixels[index])
            seen.append(torch.stack(points))
        return torch.cat(seen, dim=1)

    with frozen(model.double()):
        torch.testing.assert_close(walks(7), walks(40), rtol=0, atol=1e-9)


def test_two_classes_suffice():
    model, _, _, images, labels = linear(2)
    found = robustness(
        predictor_of(model, MEAN, STD, precision="fp64"), images, labels, attacks=[FAB(steps=2)], budget=255
    )
    assert found.result.robust_accuracy == 0
    assert images.shape[2] == SIDE


def test_a_model_that_breaks_on_the_way_is_not_fooled_by_it():
    class Breaks(nn.Module):
        """Answers with numbers only at images that are all of one grey."""

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            z = x.flatten(1)[:, :3] * self.scale + torch.tensor([1.0, 0.0, 0.0])
            return torch.where((x - 0.5).abs().amax((1, 2, 3))[:, None] > 1e-4, torch.nan, z)

    images, labels = torch.full((4, 3, 4, 4), 0.5), torch.zeros(4, dtype=torch.int64)
    found = robustness(predictor_of(Breaks()), images, labels, attacks=[FAB(steps=3)], budget=255)
    assert found.result.robust_accuracy == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FAB(steps=0), "steps is 0"),
        (lambda: FAB(targets=0), "targets is 0"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(InputError, match=message):
        make()
