"""Weights of the classes in the loss, beside plain NumPy, scikit-learn's formula and torch's loss."""

import contextlib

import numpy as np
import pytest
import torch
from methods_table import same_bits
from replay import Again
from torch import nn
from torch.nn import functional as F

from flatnext import config, data
from flatnext.config import Config
from flatnext.errors import InputError
from flatnext.methods import bind
from flatnext.training import Step, make_optimizer
from flatnext.training.class_weights import class_weights
from flatnext.training.graph import GraphStep

WEIGHTS = torch.tensor([0.3, 2.0, 1.0, 5.0], dtype=torch.float64)


def partition(counts):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    split = data.Split(torch.zeros(len(labels), 3, 2, 2, dtype=torch.uint8), labels)
    names = tuple(f"class {number}" for number in range(len(counts)))
    normalization = data.Normalization((0.5,) * 3, (0.5,) * 3)
    return data.Partition(name="some", classes=names, train=split, test=split, normalization=normalization)


def weights_of(counts, text, **changes):
    settings = Config().override({"class_weights": text, **changes})
    weights = class_weights(settings, partition(counts), dtype=torch.float64)
    return None if weights is None else weights.tolist()


def test_balanced_is_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    counts = [60, 30, 10]
    labels = np.repeat(range(3), counts)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert weights_of(counts, "balanced") == pytest.approx(expected)
    assert weights_of(counts, "none") is None


def test_numbers_weigh_one_on_average():
    assert weights_of([60, 30, 10], "2,2,2") == pytest.approx([1, 1, 1])
    weights = weights_of([60, 30, 10], "1,2.5,4")
    assert np.average(weights, weights=[60, 30, 10]) == pytest.approx(1)
    assert weights[1] / weights[0] == pytest.approx(2.5)
    # Each class is shown as often.
    assert np.mean(weights_of([60, 30, 10], "1,2.5,4", sampler="balanced")) == pytest.approx(1)


def test_a_class_without_training_images():
    assert weights_of([30, 0, 10], "balanced") == pytest.approx([40 / 60, 1, 2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_weights": "1,0,1"}, "class_weights is 1,0,1: give none, balanced, or a number above 0"),
        ({"class_weights": "1,nan"}, "class_weights is 1,nan"),
        ({"class_weights": "heavy"}, "class_weights is heavy"),
        ({"class_weights": ""}, "class_weights is : give"),
        ({"class_weights": "balanced", "sampler": "balanced"}, "would even the classes out twice"),
        ({"class_weights": "1,2"}, "class_weights has 2 numbers: give one for each of the 3 classes, .* class 0, cl"),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises(InputError, match=message):
        class_weights(Config().override(changes), partition([3, 2, 1]))


# In the step


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def batch(count=11, soft=False):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, 2, 2, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (count,), generator=generator)
    if soft:
        labels = torch.rand(count, 4, generator=generator, dtype=torch.float64).softmax(dim=1)
    return images, labels


def step(model, **options):
    optimizer = make_optimizer(model, config.Optimizer(learning_rate=0.1, weight_decay=0.0))
    method = bind(config.Sgd(), model, optimizer, total_steps=10)
    return Step(model=model, method=method, autocast=contextlib.nullcontext, **options)


def gradients(model):
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("grad_accum_steps", [1, 3])
def test_the_loss_is_the_formula(soft, smoothing, grad_accum_steps):
    images, labels = batch(soft=soft)
    model = network()
    with torch.no_grad():
        log_p = F.log_softmax(model(images), dim=1).numpy()
    # A soft label counts as images of its classes in these shares, each with its own weight and smoothed target.
    shares = labels.numpy() if soft else np.eye(4)[labels]
    losses = np.stack([-(log_p @ (np.eye(4)[k] * (1 - smoothing) + smoothing / 4)) for k in range(4)], axis=1)
    expected = (shares * WEIGHTS.numpy() * losses).sum(axis=1)
    taken = step(model, class_weights=WEIGHTS, label_smoothing=smoothing, grad_accum_steps=grad_accum_steps)
    stats = taken(images, labels, 0, len(labels))
    assert float(stats.loss) == pytest.approx(expected.sum(), rel=1e-12)
    # its gradient, by torch's loss: without smoothing as it is
    other = network()
    if smoothing == 0:
        F.cross_entropy(other(images), labels, WEIGHTS, reduction="sum").div(11).backward()
    else:
        each = [torch.full((11,), k) for k in range(4)]
        options = {"reduction": "none", "label_smoothing": smoothing}
        losses = torch.stack([F.cross_entropy(other(images), k, **options) for k in each], dim=1)
        (torch.from_numpy(shares) * WEIGHTS * losses).sum().div(11).backward()
    for found, wanted in zip(gradients(model), gradients(other), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("soft", [False, True])
def test_smoothed_labels_do_not_make_a_rare_class_the_best_answer(soft):
    """The gradient is zero where each image has its own smoothed target, however heavy the other class is."""
    weights, smoothed = torch.tensor([0.5, 20.0], dtype=torch.float64), torch.tensor([0.95, 0.05], dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False)).double()
    model[1].weight.data = smoothed.log()[:, None].clone()
    labels = torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64) if soft else torch.zeros(3, dtype=torch.int64)
    step(model, class_weights=weights, label_smoothing=0.1)(torch.ones(3, 1, 1, 1, dtype=torch.float64), labels, 0, 3)
    torch.testing.assert_close(model[1].weight.grad, torch.zeros(2, 1, dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.parametrize("soft", [False, True])
def test_processes_add_up(soft):
    images, labels = batch(soft=soft)
    whole, parts = network(), [network(), network()]
    step(whole, class_weights=WEIGHTS)(images, labels, 0, 11)
    for rank, part in enumerate(parts):
        step(part, class_weights=WEIGHTS)(images[rank::2], labels[rank::2], 0, 11)
    for one, left, right in zip(gradients(whole), *map(gradients, parts), strict=True):
        torch.testing.assert_close(left + right, one, rtol=1e-10, atol=1e-12)


def test_weights_of_one_are_none():
    images, labels = batch()
    plain, weighted = network(), network()
    for model, weights in ((plain, None), (weighted, torch.ones_like(WEIGHTS))):
        step(model, class_weights=weights)(images, labels, 0, 11)
    for found, wanted in zip(gradients(weighted), gradients(plain), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


def test_a_recorded_step_is_weighted():
    models = network(), network()
    plain, recorded = (step(model, class_weights=WEIGHTS) for model in models)
    recorded = GraphStep(recorded, again := Again())
    for number in range(8):
        images, labels = batch()
        for taken in (plain, recorded):
            taken(images + number, labels, number, 11)
    assert again.replayed > 2
    assert same_bits(*(model.state_dict().values() for model in models))
