"""Attacks against the exact answers for linear models, and Auto-PGD against a plain one in NumPy."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from attack_models import MEAN, STD, between, linear, margins, tiny_net
from predictors import predictor_of
from torch import nn

from flatnext.errors import InputError
from flatnext.evaluation.attacks import robustness, sanity_checks
from flatnext.evaluation.attacks.apgd import APGD
from flatnext.evaluation.attacks.attacked_model import AttackedModel, frozen
from flatnext.evaluation.attacks.ball import Ball
from flatnext.evaluation.attacks.gradient import PGD, Noise, fgsm
from flatnext.evaluation.attacks.losses import log_odds, margin_loss, targeted_dlr
from flatnext.evaluation.attacks.robustness import PRESETS, autoattack
from flatnext.evaluation.attacks.search import Draws
from flatnext.evaluation.attacks.square import Square
from flatnext.schema import dump


def predictor(model, precision="fp32"):
    return predictor_of(model, MEAN, STD, precision=precision)


def attack(model, images, labels, attacks, *, precision="fp32", **options):
    return robustness(predictor(model, precision), images, labels, attacks=attacks, **options)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    ("classes", "attacks"),
    [
        (2, [fgsm()]),  # with two classes the gradient's direction is the same everywhere: one step is exact
        (2, [PGD(steps=30)]),
        (2, [APGD(steps=30)]),
        (6, [APGD(steps=40, targets=5)]),
        (6, [APGD(steps=20), APGD(steps=40, targets=9)]),
    ],
    ids=["fgsm", "pgd", "apgd-ce", "apgd-t", "both"],
)
def test_linear_models_exact_robust_accuracy(norm, classes, attacks):
    model, by_pixel, offset, images, labels = linear(classes)
    radii = margins(by_pixel, offset, images, labels, norm)
    for share in (0.3, 0.6):
        budget = between(radii, share)
        found = attack(model, images, labels, attacks, precision="fp64", norm=norm, budget=budget)
        assert budget / 255 < 0.3  # no pixel reaches 0 or 1 in the ball of linf
        assert found.robust.tolist() == (radii > budget / 255).tolist()
        assert found.correct.tolist() == (radii > 0).tolist()
        assert 0 < found.result.robust_accuracy < found.result.clean_accuracy < 1


def test_linear_models_exact_robust_accuracy_where_pixels_reach_their_range():
    model, by_pixel, offset, images, labels = linear(2, seed=3)
    images = ((images - 0.5) * 6 + 0.5).clamp(0, 1)  # two thirds of the pixels are 0 or 1
    labels = (images.flatten(1) @ by_pixel.T + offset).argmax(1)
    radii = margins(by_pixel, offset, images, labels, "linf")
    budget = 1.4 * between(radii)
    low, high = (images.flatten(1) + sign * budget / 255 for sign in (-1, 1))
    normal, shift = by_pixel[labels] - by_pixel[1 - labels], offset[labels] - offset[1 - labels]
    worst = torch.minimum(normal * low.clamp_min(0), normal * high.clamp_max(1)).sum(1) + shift  # pixel by pixel
    found = attack(model, images, labels, [PGD(steps=30)], precision="fp64", budget=budget)
    assert found.robust.tolist() == (worst > 0).tolist()
    assert (radii > budget / 255).mean() < found.result.robust_accuracy < 1  # the range of the pixels saves some


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square_and_noise_stay_below_the_exact_answer_and_square_comes_near(norm):
    model, by_pixel, offset, images, labels = linear(4)
    radii = margins(by_pixel, offset, images, labels, norm)
    for share, factor in ((0.5, 1), (0.2, 2.5)):
        budget = between(radii, share) * factor
        square = attack(model, images, labels, [Square(queries=400)], precision="fp64", norm=norm, budget=budget)
        noise = attack(model, images, labels, [Noise(trials=20)], precision="fp64", norm=norm, budget=budget)
        exact = radii > budget / 255
        for found in (square, noise):
            assert not (~found.robust.numpy() & exact).any()
        assert square.result.robust_accuracy < noise.result.robust_accuracy
    assert square.result.robust_accuracy - exact.mean() < 0.3


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_zero_budget_is_the_clean_accuracy(name, norm):
    model, _, _, images, labels = linear(5)
    attacks = autoattack(steps=5, targets=2, queries=5) if name == "autoattack" else PRESETS[name]()
    found = attack(model, images, labels, attacks, precision="fp64", norm=norm, budget=0)
    assert found.result.robust_accuracy == found.result.clean_accuracy == 54 / 60
    assert torch.equal(found.images, images)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attacks", [[Noise()], [fgsm()], [PGD()], autoattack(steps=10, targets=2, queries=30)])
def test_found_images_fool_and_lie_in_the_ball(norm, attacks):
    model, images, labels = tiny_net()
    budget = 8.0 if norm == "linf" else 60.0
    found = attack(model, images, labels, attacks, norm=norm, budget=budget)
    delta = (found.images - images / 255).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert size.max() <= budget / 255 * (1 + 1e-5)
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    assert (size[found.robust] == 0).all()
    mean, std = (torch.tensor(value).reshape(1, 3, 1, 1) for value in (MEAN, STD))
    with torch.no_grad():
        right = model((found.images - mean) / std).argmax(1) == labels
    assert torch.equal(right, found.robust)
    if "noise" not in found.result.attack:
        assert 0 < found.result.robust_accuracy < 1


def test_gradient_by_pixels_goes_through_the_normalisation():
    model, images, labels = tiny_net()
    model.double()
    pixels, labels = (images[:3] / 255).double(), labels[:3]
    mean, std = (torch.tensor(value, dtype=torch.float64).view(3, 1, 1) for value in (MEAN, STD))
    attacked = AttackedModel(predictor(model, "fp64"))
    logits, losses, gradient = attacked.gradient(pixels, lambda z: margin_loss(z, labels))
    inputs = ((pixels - mean) / std).requires_grad_()
    loss = margin_loss(model(inputs), labels).sum()
    loss.backward()
    torch.testing.assert_close(gradient, inputs.grad / std, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(losses.sum(), loss.detach())
    for place in ((0, 0, 2, 3), (2, 1, 5, 0)):  # and a finite difference
        ends = [pixels.index_put([torch.tensor(i) for i in place], pixels[place] + step) for step in (1e-5, -1e-5)]
        above, below = (float(margin_loss(attacked.predict(end), labels).sum()) for end in ends)
        assert (above - below) / 2e-5 == pytest.approx(float(gradient[place]), rel=1e-6)
    assert (attacked.forward, attacked.backward) == (15, 3)
    assert torch.equal(logits.argmax(1), labels)


@pytest.mark.parametrize("gain", [1.0, 400.0])
def test_log_odds_rise_as_the_cross_entropy_does_and_never_saturate(gain):
    model, images, labels = tiny_net(gain=gain)
    attacked = AttackedModel(predictor(model))
    logits, odds, gradient = attacked.gradient(images / 255, lambda z: log_odds(z, labels))
    wanted = nn.functional.cross_entropy(logits.double(), labels, reduction="none")
    torch.testing.assert_close(nn.functional.softplus(odds.double()), wanted, rtol=1e-4, atol=1e-12)
    _, _, other = attacked.gradient(images / 255, lambda z: nn.functional.cross_entropy(z, labels, reduction="none"))
    assert (other.flatten(1).abs().amax(1) == 0).any() == (gain == 400)  # a model this sure masks the cross-entropy
    for norm in ("linf", "l2"):
        direction = Ball(norm, 1.0).direction(gradient).flatten(1)
        length = direction.abs().amax(1) if norm == "linf" else direction.norm(dim=1)
        torch.testing.assert_close(length, torch.ones(40))
    if gain == 1:
        same = Ball("l2", 1.0).direction(other)
        torch.testing.assert_close(Ball("l2", 1.0).direction(gradient), same, rtol=1e-3, atol=1e-5)


# Auto-PGD, image by image in NumPy


def numpy_apgd(weight, bias, clean, label, start, radius, norm, steps):
    """Return the best point and loss of Auto-PGD on the cross-entropy of a linear model (Algorithm 1 of the paper)."""

    def evaluate(x):
        z = weight @ x + bias
        odds = np.exp(z - z[label])
        odds[label] = 0.0
        p = odds / (1 + odds.sum())  # of the other classes; then for the label p - 1, without cancellation
        p[label] = -p.sum()
        return np.log1p(odds.sum()), weight.T @ p

    def project(x):
        d = x - clean
        if norm == "linf":
            d = np.clip(d, -radius, radius)
        elif np.linalg.norm(d) > radius:
            d = d * radius / np.linalg.norm(d)
        return np.clip(clean + d, 0, 1)

    def unit(g):
        return np.sign(g) if norm == "linf" else g / np.linalg.norm(g)

    lengths = [max(int(0.22 * steps), 1)]
    points = [lengths[0]]
    while points[-1] <= steps:
        lengths.append(max(lengths[-1] - max(int(0.03 * steps), 1), int(0.06 * steps), 1))
        points.append(points[-1] + lengths[-1])
    x = before = start
    f, g = evaluate(x)
    best = best_at_check = f
    best_x, best_g, eta, rises, halved = x, g, 2 * radius, 0, True
    for k in range(1, steps + 1):
        z = project(x + eta * unit(g))
        a = 0.75 if k > 1 else 1.0
        before, x = x, project(x + a * (z - x) + (1 - a) * (x - before))
        last, (f, g) = f, evaluate(x)
        rises += f > last
        if f > best:
            best, best_x, best_g = f, x, g
        if k in points:
            w = lengths[points.index(k)]
            halved = rises <= 0.75 * w or (not halved and best == best_at_check)
            best_at_check, rises = best, 0
            if halved:
                eta, x, g = eta / 2, best_x, best_g
    return best_x, best


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("steps", [7, 50])
def test_apgd_is_that_of_numpy(norm, steps):
    model, by_pixel, offset, images, labels = linear(5, seed=4)
    images = ((images - 0.5) * 2.4 + 0.5).clamp(0, 1)  # the box takes part
    labels = (images.flatten(1) @ by_pixel.T + offset).argmax(1)
    radii = margins(by_pixel, offset, images, labels, norm)
    safe = np.argsort(radii)[-12:]  # images that stand: their whole climb is run
    images, labels = images[safe], labels[safe]
    ball = Ball(norm, float(radii[safe].min() * 255 * 0.9))
    with frozen(model):
        attacked = AttackedModel(predictor(model, "fp64"))
        found = APGD(steps=steps)(attacked, images, labels, ball, Draws(0, range(12)))
    assert not found.fooled.any()
    draw = Draws(0, range(12)).uniform(torch.arange(12), 1 + images[0].numel()).double()
    starts = ball.border(images, draw)
    losses = nn.functional.cross_entropy(attacked.predict(found.images), labels, reduction="none")
    for i in range(12):
        arrays = [t.flatten().numpy() for t in (images[i], starts[i])]
        wanted, loss = numpy_apgd(
            by_pixel.numpy(), offset.numpy(), arrays[0], int(labels[i]), arrays[1], ball.radius, norm, steps
        )
        assert float(losses[i]) == pytest.approx(loss, rel=1e-9)
        np.testing.assert_allclose(found.images[i].flatten().numpy(), wanted, atol=1e-9)


def test_losses_by_hand():
    logits = torch.tensor([[3.0, 1.0, 0.5, -1.0, -2.0], [0.0, 2.0, 5.0, 1.0, 1.0]]).double()
    labels = torch.tensor([0, 1])
    torch.testing.assert_close(margin_loss(logits, labels), torch.tensor([-2.0, 3.0]).double())
    wanted = torch.tensor([-4 / (3 - (0.5 - 1) / 2), -2 / 4]).double()
    torch.testing.assert_close(targeted_dlr(logits, labels, torch.tensor([3, 0])), wanted)
    torch.testing.assert_close(targeted_dlr(10 * logits + 3, labels, torch.tensor([3, 0])), wanted)


def test_autoattack_has_the_settings_of_the_authors_standard_version():
    first, second, third, last = map(dump, autoattack())
    assert first == {"steps": 100, "targets": None, "name": "apgd-ce"}
    assert second == {"steps": 100, "targets": 9, "name": "apgd-dlr-targeted"}
    assert third == {"steps": 100, "targets": 9, "name": "fab-targeted"}
    assert last == {"queries": 5000, "rescale": False, "name": "square"}


def test_the_windows_of_square_shrink_by_queries_or_by_their_share():
    images = torch.zeros(1, 3, 32, 32)
    whole, part, scaled = Square(queries=10_000), Square(rescale=False), Square()
    for query, side in ((10, 29), (11, 20), (51, 14), (201, 10), (501, 7), (1001, 5), (2001, 4), (4001, 3)):
        assert whole._side(query, images, odd=False) == part._side(query, images, odd=False) == side
        if query > 10:
            assert scaled._side((query + 1) // 2, images, odd=False) == side


# What attacks promise


def test_only_what_is_still_right_is_attacked_and_passes_are_counted():
    model, images, labels = tiny_net()
    labels = labels.clone()
    labels[:4] = (labels[:4] + 1) % 5
    calls, progress = [], []
    hook = model.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    attacks = (Noise(trials=3), fgsm(), PGD(steps=5), Square(queries=9))
    found = attack(
        *(model, images, labels, attacks), budget=4.0, batch_size=16, progress=lambda *pair: progress.append(pair)
    )
    hook.remove()
    attacked = [part.attacked for part in found.result.parts]
    left = [part.attacked - part.fooled for part in found.result.parts]
    assert attacked == [36, *left[:-1]]
    assert found.result.clean_accuracy == 36 / 40
    assert found.result.robust_accuracy == left[-1] / 40
    assert sum(calls) == 40 + sum(part.forward for part in found.result.parts)
    for part, (forward, backward) in zip(found.result.parts, ((3, 0), (2, 1), (6, 5), (10, 0)), strict=True):
        left_over = part.attacked - part.fooled
        assert left_over * forward <= part.forward <= part.attacked * forward
        assert left_over * backward <= part.backward <= part.attacked * backward
    assert progress[-1] == (160, 160)
    assert progress == sorted(progress)
    content = json.loads(json.dumps(dump(found.result)))
    assert content["attack"] == "noise+fgsm+pgd+square"
    assert content["parts"][2]["settings"] == {**{"steps": 5, "step_size": 0.25, "random_start": True, "name": "pgd"}}


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_passes_are_the_most_an_image_can_cost(norm):
    model, images, labels = tiny_net()
    costs = {Noise(): (10, 0), fgsm(): (2, 1), PGD(steps=3): (4, 3)}
    # Five classes have four others. With the authors' settings: 101 + 910 + 1,801 + 5,001 = 7,813 and 101 + 909 + 900.
    targeted = autoattack(steps=3, targets=4, queries=7)
    costs |= dict(zip(targeted, ((4, 4), (4 * 4 + 1, 4 * 4), (2 * 4 * 3 + 1, 4 * 3), (8, 0)), strict=True))
    for own, wanted in costs.items():
        part = attack(model, images, labels, [own], norm=norm, budget=0.0).result.parts[0]
        assert (part.forward, part.backward) == tuple(40 * passes for passes in wanted)


def test_the_model_is_left_as_it_was():
    model, images, labels = tiny_net()
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    model[4].bias.grad = torch.ones(8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    found = attack(model, images, labels, autoattack(steps=3, targets=1, queries=3))
    assert found.result.clean_accuracy == 1  # evaluation mode: dropout would make mistakes
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model] == [True, False, *[True] * 6]
    assert [p.requires_grad for p in model.parameters()] == [False, *[True] * 7]
    assert model[4].bias.grad.tolist() == [1.0] * 8
    assert model[0].bias.grad is None
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_an_image_draws_the_same_whatever_the_batch():
    model, images, labels = tiny_net()
    model.double()
    for attacks in ([Noise()], [PGD(steps=3)], autoattack(steps=4, targets=2, queries=80)):
        one, other, third = (
            attack(model, images, labels, attacks, precision="fp64", budget=3.0, batch_size=size, seed=seed)
            for size, seed in ((7, 0), (40, 0), (40, 1))
        )
        torch.testing.assert_close(one.images, other.images, rtol=0, atol=1e-9)
        assert torch.equal(one.robust, other.robust)
        assert not torch.allclose(other.images, third.images, rtol=0, atol=1e-9)


def test_bf16_is_said():
    model, images, labels = tiny_net()
    found = attack(model, images, labels, "fgsm", precision="bf16")
    result = found.result
    assert (result.precision, result.attack, result.norm, result.budget, result.count) == (
        "bf16",
        "fgsm",
        "linf",
        8.0,
        40,
    )
    assert 0 <= found.result.robust_accuracy <= found.result.clean_accuracy


def test_outputs_that_are_not_finite_fool_nobody():
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            z = x.flatten(1)[:, :2] * self.scale
            return torch.where((x - x.round(decimals=1)).abs().amax((1, 2, 3))[:, None] > 1e-4, torch.nan, z)

    images = torch.full((4, 3, 4, 4), 0.5)
    labels = torch.zeros(4, dtype=torch.int64)
    found = robustness(predictor_of(Breaks()), images, labels, attacks=[Noise(), PGD()])
    assert found.result.robust_accuracy == 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_points_are_drawn_from_the_ball_and_its_border(norm):
    ball = Ball(norm, 25.5)
    clean = torch.full((500, 3, 4, 4), 0.5, dtype=torch.float64)
    draw = Draws(0, range(500)).uniform(torch.arange(500), 49).double()
    sizes = {}
    for name, points in (("inside", ball.inside(clean, draw)), ("border", ball.border(clean, draw))):
        delta = (points - clean).flatten(1)
        assert abs(float(delta.mean())) < 0.002
        sizes[name] = (delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)) / 0.1
    torch.testing.assert_close(sizes["border"], torch.ones(500).double())
    # The largest of 48 uniform values, and the length of a uniform point of a 48-dimensional ball, are both u^(1/48).
    assert sizes["inside"].max() <= 1 + 1e-9
    assert float(sizes["inside"].mean()) == pytest.approx(48 / 49, abs=0.004)
    one, other = (Draws(0, [3], stream).uniform(torch.tensor([0]), 2).tolist() for stream in (0, 1))
    assert one != other


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(3, 3), (8, 8), (5, 9), (1, 4), (32, 32)])
def test_square_stays_in_the_ball_on_any_size(norm, shape):
    clean = torch.rand(6, 3, *shape, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    labels = torch.randint(3, (6,), generator=torch.Generator().manual_seed(0))
    attacked, ball = AttackedModel(predictor(model)), Ball(norm, 2.0)
    found = Square(queries=40)(attacked, clean, labels, ball, Draws(0, range(6)))
    delta = (found.images - clean).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert (size / ball.radius).tolist() == pytest.approx([1.0] * 6, abs=1e-4)  # it uses all of its budget


# Sanity checks


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_model_that_hides_nothing_passes_the_checks(norm):
    model, images, labels = tiny_net()
    before, progress = model.training, []
    budget = 4.0 if norm == "linf" else 30.0
    checks = sanity_checks(
        *(predictor(model), images, labels),
        norm=norm,
        budget=budget,
        slack=0.025,
        progress=lambda *pair: progress.append(pair),
    )
    failed = [check for check in checks if not check.passed]
    assert not failed
    assert len(checks) == 8
    assert progress == [(i, 10) for i in range(1, 11)]
    assert model.training is before
    steps = checks[0].values
    assert list(steps) == ["5 steps", "10 steps", "20 steps"]
    assert 0 < steps["20 steps"] < 1


def test_masked_gradients_are_noticed():
    class Rounded(nn.Module):
        """Rounds its inputs, so that the gradient is 0 everywhere, and moves to another class all the same."""

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x.mul(20).round() / 20)

    model, images, labels = tiny_net()
    checks = {
        check.name: check
        for check in sanity_checks(predictor(Rounded(model)), images, labels, budget=8.0, steps=4, slack=0.1)
    }
    failed = {name for name, check in checks.items() if not check.passed}
    assert {"every image has a gradient", "with the whole range of pixels nothing is left"} <= failed
    assert "random search is weaker than PGD" in failed
    assert checks["every image has a gradient"].values["without"] == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ball("l1", 1), "norm is 'l1': choose linf or l2"),
        (lambda: Ball("linf", -1), "budget is -1"),
        (lambda: Ball("linf", float("nan")), "budget is nan"),
        (lambda: PGD(steps=0), "steps is 0"),
        (lambda: PGD(step_size=0), "step_size is 0"),
        (lambda: Noise(trials=0), "trials is 0"),
        (lambda: Square(queries=0), "queries is 0"),
        (lambda: APGD(targets=0), "targets is 0"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(2, 2, 8, 8)}, "images are torch.float32"),
        ({"images": torch.full((2, 3, 8, 8), 1.5)}, r"pixels outside \[0, 1\]"),
        ({"images": torch.full((2, 3, 8, 8), torch.nan)}, r"pixels outside \[0, 1\]"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels are torch.int64"),
        ({"labels": torch.full((2,), 5)}, "the model has 5 classes: give labels from 0 to 4"),
        ({"attacks": []}, "attacks is empty"),
        ({"attacks": "cw"}, "attacks is 'cw': choose fgsm, pgd, autoattack$"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"precision": "fp64"}, "for precision fp64 make them torch.float64"),
        ({"precision": "auto"}, "precision is 'auto'"),
    ],
)
def test_bad_input(changes, message):
    model, images, labels = tiny_net()
    arguments = {"images": images[:2], "labels": labels[:2], "attacks": "pgd", **changes}
    with pytest.raises(InputError, match=message):
        attack(model, **arguments)


def test_too_few_classes_for_targets():
    model, _, _, images, labels = linear(3)
    with pytest.raises(InputError, match="needs 4 classes and the model has 3: choose attack pgd"):
        attack(model, images, labels, [APGD(steps=2, targets=2)], precision="fp64")
