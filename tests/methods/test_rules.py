"""The rules by themselves, in a training loop of one's own."""

import contextlib
import functools
import math
import re

import numpy as np
import pytest
import torch
from methods_table import (
    bits,
    bn_network,
    image_batches,
    same_bits,
)
from torch import nn
from torch.nn import functional as F

import flatnext
from flatnext import config, methods
from flatnext.errors import FallbackWarning, InputError


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


def seen_by(rule, weights, given):
    """Return the weights in each pass of a rule, whose loss is the sum of squares, and the gradients that it leaves."""
    seen = []

    def closure():
        seen.append([w.detach().clone() for w in weights])
        for w in weights:
            w.grad = None
        sum(w.abs().square().sum().double() for w in weights).backward()

    rule(closure, given, [])
    return [*(w for several in seen for w in several), *(w.grad for w in weights)]


@pytest.mark.parametrize("name", rules(None))
def test_a_parameter_that_is_given_twice_counts_once(name):
    found = []
    for twice in (False, True):
        weights = [nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([3.0]))]
        optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
        for w in weights:
            optimizer.state[w]["momentum_buffer"] = w.detach().clone()
        given = [weights[0], weights[1], weights[0], weights[1]] if twice else weights
        found.append(seen_by(rules(optimizer)[name], weights, iter(given)))
    assert same_bits(*found)


@pytest.mark.parametrize("setting", ["epsilon", "inner_lr"])
def test_numbers_for_each_parameter_are_refused_where_one_is_given_twice(setting):
    weight, calls = nn.Parameter(torch.ones(2)), []
    with pytest.raises(InputError, match=f"{setting} has a number for each parameter, and one of these is given twice"):
        methods.amp(lambda: calls.append(1), [weight, weight], [], **{"epsilon": 0.5, setting: [0.5, 0.5]})
    assert not calls


def test_images_that_are_given_twice_count_once():
    found = []
    for copies in (1, 2):
        images = torch.ones(2, 3, 2, 2)
        seen = []

        def closure(images=images, seen=seen):
            seen.append(images.detach().clone())
            images.grad = None
            images.square().sum().backward()

        methods.adversarial(closure, [images] * copies, [], epsilon=0.1)
        found.append(seen)
    assert same_bits(*found)


KINDS = [torch.float32, torch.float64, torch.complex64, torch.complex128, torch.bfloat16]


@pytest.mark.parametrize("ball", ["tensor", "global"])
@pytest.mark.parametrize("name", rules(None))
def test_parameters_may_be_of_several_types(name, ball):
    """The oracle is the same numbers in double precision, a complex one as two, in whatever order the types come."""
    values = {kind: torch.tensor([1.0 + number, 2.0]) for number, kind in enumerate(KINDS)}
    radius = {"rho": 0.5} if name in ("sam", "asam") else {"epsilon": 0.5, "ball": ball}
    for kinds in (KINDS, KINDS[::-1]):
        lengths = []
        for exact in (False, True):
            weights = [nn.Parameter(values[kind].to(torch.float64 if exact else kind)) for kind in kinds]
            optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
            for w in weights:
                optimizer.state[w]["momentum_buffer"] = w.detach().clone()
            rule = functools.partial(rules(optimizer)[name], **radius)
            seen = seen_by(rule, weights, weights)
            start = [values[kind].double() for kind in kinds]
            moved = seen[-2 * len(kinds) : -len(kinds)]  # in the last pass
            lengths.append([float((w.to(torch.complex128) - at).norm()) for w, at in zip(moved, start, strict=True)])
        if name == "rmp":  # noise is drawn as the type says
            total = [math.hypot(*several) if ball == "global" else several for several in lengths]
            assert total[0] == pytest.approx(total[1], rel=0.02)
        else:
            assert lengths[0] == pytest.approx(lengths[1], rel=0.05)
        assert all(length > 0.01 for length in lengths[1])


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_momentum_amp_leaves_what_is_frozen_where_it_is(name):
    model, (images, labels) = nn.Sequential(nn.Flatten(), nn.Linear(48, 4), nn.Linear(4, 3)), image_batches(1)[0]
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.1, **({"momentum": 0.9} if name == "SGD" else {}))
    seen = []

    def closure():
        seen.append([p.detach().clone() for p in model.parameters()])
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()

    for frozen in (False, True):
        model[1].requires_grad_(not frozen)
        for _ in range(2):
            methods.momentum_amp(closure, model.parameters(), [], optimizer=optimizer, epsilon=0.5)
            before = [p.detach().clone() for p in model.parameters()]
            optimizer.step()
        moved = [not torch.equal(a, b) for a, b in zip(seen[-1], before, strict=True)]
        assert moved == [not frozen, not frozen, True, True]


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("how", ["frozen", "unused"])
@pytest.mark.parametrize("name", rules(None))
def test_what_has_only_an_old_gradient_stays_where_it_is(name, how, set_to_none):
    """The oracle is the same network with the first layer as a constant, which no rule is given."""
    images, labels = image_batches(1)[0]
    images, found = images.flatten(1), []
    for given in ("all", "last"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(48, 4), nn.Linear(4, 3))
        F.cross_entropy(model(images), labels).backward()  # a phase before, which leaves its gradients
        optimizer, seen = torch.optim.SGD(model[1].parameters(), lr=0.1, momentum=0.9), []
        model[0].requires_grad_(how != "frozen")

        def closure(model=model, optimizer=optimizer, seen=seen):
            seen.extend(bits(model[0].parameters()))
            optimizer.zero_grad(set_to_none)
            F.cross_entropy(model[1](model[0](images).detach()), labels).backward()

        rule, first = rules(optimizer)[name], bits(model[0].parameters())
        for _ in range(2):
            rule(closure, (model if given == "all" else model[1]).parameters(), [])
            optimizer.step()
        assert same_bits(seen, first * (len(seen) // 2))
        found.append(bits(model[1].parameters()))
    assert same_bits(*found)


def test_gradients_that_are_written_unseen_perturb_as_ever():
    """As those of a CUDA graph are, which a closure replays: no version counter of torch moves on."""
    weight, seen = nn.Parameter(torch.zeros(2)), []
    weight.grad = torch.zeros(2)

    def closure():
        seen.append(weight.detach().clone())
        weight.grad.data.copy_(torch.tensor([0.3, 0.4]))

    methods.sam(closure, [weight], [], rho=0.5)
    torch.testing.assert_close(seen[1], torch.tensor([0.3, 0.4]))


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("inner_iter", [1, 3])
@pytest.mark.parametrize("name", ["amp", "rmp", "sam", "asam"])
def test_a_closure_that_forgets_to_zero_gives_the_gradient_of_the_last_pass(name, inner_iter, set_to_none):
    (images, labels), found = image_batches(1)[0], []
    for inside in (True, False):
        model = bn_network()
        rule = functools.partial(rules(None)[name], **({"inner_iter": inner_iter} if name == "amp" else {}))

        def closure(model=model, inside=inside):
            if inside:
                model.zero_grad()
            F.cross_entropy(model(images), labels).backward()

        for _ in range(2):
            model.zero_grad(set_to_none)
            rule(closure, model.parameters(), model.buffers())
        found.append([p.grad for p in model.parameters()])
    assert same_bits(*found)


def test_a_gradient_that_keeps_its_memory_keeps_it():
    (images, labels), model = image_batches(1)[0], bn_network()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    kept = [p.grad for p in model.parameters()]

    def closure():
        assert all(p.grad is gradient for p, gradient in zip(model.parameters(), kept, strict=True))
        model.zero_grad(set_to_none=False)
        F.cross_entropy(model(images), labels).backward()

    for _ in range(2):
        methods.amp(closure, model.parameters(), model.buffers(), epsilon=0.5, inner_iter=2)


def test_gradients_that_are_views_of_one_tensor_perturb_as_others():
    """As `DistributedDataParallel` has them with `gradient_as_bucket_view`."""
    (images, labels), found = image_batches(1)[0], []
    for views in (False, True):
        model = bn_network()
        flat = torch.zeros(sum(p.numel() for p in model.parameters()))

        def closure(model=model, flat=flat, views=views):
            model.zero_grad()
            if views:
                flat.zero_()
                for p, part in zip(
                    model.parameters(), flat.split([p.numel() for p in model.parameters()]), strict=True
                ):
                    p.grad = part.view_as(p)
            F.cross_entropy(model(images), labels).backward()

        for _ in range(2):
            methods.sam(closure, model.parameters(), model.buffers(), rho=0.5)
        found.append([p.grad for p in model.parameters()])
    assert same_bits(*found)


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


def of_embedding(**options):
    """Return the weight of an embedding after three steps of SGD with momentum and momentum AMP."""
    layer = nn.Embedding(6, 3, **options)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(18.0).view(6, 3).sin())
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)

    def closure():
        optimizer.zero_grad()
        layer(torch.tensor([1, 4, 4])).square().sum().backward()

    for _ in range(3):
        methods.momentum_amp(closure, layer.parameters(), [], optimizer=optimizer, epsilon=0.5)
        optimizer.step()
    return layer.weight.detach()


def test_momentum_amp_takes_a_sparse_momentum():
    torch.testing.assert_close(of_embedding(sparse=True), of_embedding())


def test_momentum_amp_says_where_there_is_no_momentum():
    layer = nn.Linear(5, 4)
    optimizer = torch.optim.Adagrad(layer.parameters(), lr=0.01)

    def closure():
        optimizer.zero_grad()
        layer(torch.ones(2, 5)).sum().backward()

    with pytest.warns(FallbackWarning, match="Adagrad keeps no momentum"):
        methods.momentum_amp(closure, layer.parameters(), [], optimizer=optimizer, epsilon=0.5)


def test_momentum_amp_refuses_an_optimizer_that_maximizes():
    layer = nn.Linear(5, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01, momentum=0.9, maximize=True)
    with pytest.raises(InputError, match="maximize=True"):
        methods.momentum_amp(lambda: None, layer.parameters(), [], optimizer=optimizer, epsilon=0.5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_images_out_of_their_range_stay_in_the_ball(norm):
    """With `low` and `high` of [0, 1] and images that were normalised, for which these are not the limits."""
    images = 2 * torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    clean, seen = images.clone(), []

    def closure():
        seen.append(images.detach().clone())
        (images * torch.arange(9.0).view(3, 3).cos()).sum().backward()

    low, high = torch.zeros(()), torch.ones(())
    methods.adversarial(closure, [images], [], epsilon=0.1, inner_iter=2, norm=norm, low=low, high=high)
    moved = seen[-1] - clean
    size = moved.abs().amax() if norm == "linf" else moved.flatten(1).norm(dim=1).amax()
    assert 0.01 < float(size) <= 0.1 * (1 + 1e-5)
    within = (clean > 0) & (clean < 1)
    assert ((seen[-1] >= 0) & (seen[-1] <= 1))[within].all()


def test_a_method_for_images_needs_their_normalization():
    model = bn_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(InputError, match="adversarial needs the normalization of the images"):
        methods.bind(config.METHODS["adversarial"](), model, optimizer, total_steps=10)


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
    ("sam", {"rho": np.float32(-0.5)}, "rho"),
    ("amp", {"epsilon": [0.5, np.float32(np.nan)]}, "epsilon"),
    ("asam", {"rho": -0.5}, "rho"),
    ("asam", {"rho": 0.5, "eta": -0.1}, "eta"),
    ("adversarial", {"epsilon": -0.5}, "epsilon"),
    ("adversarial", {"epsilon": 0.5, "inner_lr": -1.0}, "inner_lr"),
    ("adversarial", {"epsilon": 0.5, "inner_iter": -1}, "inner_iter"),
    ("adversarial", {"epsilon": 0.5, "norm": "l3"}, "l3"),
    *[("sam", {"rho": value}, "rho is .*: give a number") for value in (None, "0.05", [0.05, 0.1], np.array([0.1]))],
    *[("amp", {"epsilon": value}, "epsilon is .*: give a number") for value in (None, "0.5", np.array([0.5, 0.5]))],
    ("amp", {"epsilon": [0.5, None]}, "epsilon is None: give a number"),
    ("amp", {"epsilon": 0.5, "inner_lr": None}, "inner_lr is None: give a number"),
    ("amp", {"epsilon": 0.5, "inner_iter": 1.5}, "inner_iter is 1.5: give a whole number"),
    ("asam", {"rho": 2.0, "eta": None}, "eta is None: give a number"),
    ("rmp", {"epsilon": [0.1, 0.1], "generator": None}, "epsilon is .*: give a number"),
    ("momentum_amp", {"epsilon": None, "optimizer": None}, "epsilon is None: give a number"),
    ("adversarial", {"epsilon": None}, "epsilon is None: give a number"),
    ("adversarial", {"epsilon": 0.5, "inner_iter": 0.5}, "inner_iter is 0.5: give a whole number"),
]


@pytest.mark.parametrize(("name", "settings", "message"), BAD, ids=[f"{n}-{s}" for n, s, _ in BAD])
def test_a_bad_setting_is_an_input_error_before_anything_runs(name, settings, message):
    weights, calls = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))], []
    with pytest.raises(InputError, match=message) as caught:
        getattr(methods, name)(lambda: calls.append(1), weights, [], **settings)
    assert "\n" not in str(caught.value)
    assert not calls


@pytest.mark.parametrize("name", [*rules(None), "sgd", "adversarial"])
@pytest.mark.parametrize("momentum", [False, True])
def test_a_closure_without_a_backward_pass_is_an_input_error(name, momentum):
    weights, calls = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))], []
    optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
    if momentum:
        optimizer.state[weights[0]]["momentum_buffer"] = torch.ones(2)
    others = {"sgd": methods.sgd, "adversarial": functools.partial(methods.adversarial, epsilon=0.1)}
    rule = {**rules(optimizer), **others}[name]
    with pytest.raises(InputError, match=r"(no|a) gradient after the closure"):
        rule(lambda: calls.append(1), iter(weights), [])
    assert calls == [1]
    assert torch.equal(weights[0], torch.ones(2))


def given_to(name, model):
    """Return a rule by its name in `methods.RULES` with what else it needs."""
    others = {"sgd": methods.sgd, "adversarial": functools.partial(methods.adversarial, epsilon=0.1)}
    return {**rules(torch.optim.SGD(model.parameters(), lr=0.1)), **others}[name]


@pytest.mark.parametrize("name", methods.RULES)
def test_no_parameters_at_all_are_refused_before_anything_runs(name):
    rule, calls, model = given_to(name, bn_network()), [], nn.Sequential(nn.Linear(2, 2))
    for given in ([], iter([]), methods.norm_parameters(model)):
        with pytest.raises(InputError, match="there is no tensor to perturb"):
            rule(lambda: calls.append(1), given, [])
    groups = torch.optim.SGD(model.parameters(), lr=0.1).param_groups
    for given, kind in ((model.named_parameters(), "tuple"), (groups, "dict")):
        with pytest.raises(InputError, match=f"a {kind} is among the tensors to perturb: give model.parameters()"):
            rule(lambda: calls.append(1), given, [])
    assert not calls


@pytest.mark.parametrize("name", methods.RULES)
@pytest.mark.parametrize("which", ["tensors", "buffers"])
def test_a_generator_that_was_read_is_refused_before_anything_runs(name, which):
    model, calls = bn_network(), []
    tensors, buffers = model.parameters(), model.buffers()
    list(tensors if which == "tensors" else buffers)
    word = which if which == "buffers" else "inputs" if name == "adversarial" else "parameters"
    with pytest.raises(InputError, match=f"{word} is a generator that was read already") as caught:
        given_to(name, model)(lambda: calls.append(1), tensors, buffers)
    assert "\n" not in str(caught.value)
    assert not calls


def test_the_optimizer_refuses_a_closure_without_a_backward_pass():
    layer = nn.Linear(2, 2)
    optimizer = flatnext.AMP(layer.parameters(), lr=0.1, epsilon=0.5)
    for _ in range(2):
        with pytest.raises(InputError, match=r"call loss\.backward\(\)"):
            optimizer.step(lambda: layer(torch.ones(1, 2)).sum())


def test_batch_norm_counts_the_micro_batches_of_the_first_call_alone():
    model, images = bn_network(), image_batches(1)[0][0]

    def closure():
        model.zero_grad()
        for part in images.tensor_split(4):
            model(part).square().sum().backward()

    flatnext.amp(closure, model.parameters(), model.buffers(), epsilon=0.1, inner_iter=2)
    assert {int(b) for name, b in model.named_buffers() if name.endswith("num_batches_tracked")} == {4}


@pytest.mark.parametrize("name", methods.RULES)
def test_a_call_without_a_rules_three_arguments_is_answered_with_the_right_one(name):
    rule, model = methods.RULES[name], bn_network()
    second, example = ("inputs", "[images]") if name == "adversarial" else ("parameters", "model.parameters()")
    call = re.escape(f"{rule.__name__}(closure, {example}, model.buffers(), ...)")
    tensors = [torch.zeros(2)]
    buffers = "buffers is missing: give the tensors that a forward pass changes and that should count a batch once"
    for arguments, message in (
        ((print, tensors), buffers),
        ((print, tensors, None), buffers),
        ((print, tensors, model), buffers),
        ((print,), f"{second} is missing"),
        ((print, model, ()), f"{second} is a Sequential"),
        ((print, tensors[0], ()), f"{second} is a Tensor"),
        ((torch.zeros(1), tensors, ()), "closure is no function"),
        ((), "closure is no function"),
    ):
        with pytest.raises(InputError, match=f"{message}.*{call}"):
            rule(*arguments)


def test_an_image_without_a_gradient_stays_where_it_is():
    images, weight, seen = torch.rand(2, 3, 2, 2), nn.Parameter(torch.ones(12)), []

    def closure():
        seen.append(images.detach().clone())
        weight.grad = None
        (images[:1].flatten(1) @ weight).sum().backward()

    methods.adversarial(closure, [images], [], epsilon=0.1, norm="l2")
    moved = [not torch.equal(*pair) for pair in zip(*seen[:2], strict=True)]
    assert moved == [True, False]
    assert torch.isfinite(seen[1]).all()


@pytest.mark.parametrize("name", ["amp", "rmp", "sam", "asam"])
def test_a_gradient_of_zeros_moves_nothing(name):
    weights, seen = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))], []
    options = {"rho": 0.5} if name in ("sam", "asam") else {"epsilon": 0.5}
    options |= {"generator": torch.Generator()} if name == "rmp" else {}

    def closure():
        seen.append([weight.detach().clone() for weight in weights])
        for weight in weights:
            weight.grad = torch.zeros_like(weight)

    getattr(methods, name)(closure, weights, [], **options)
    assert all(torch.equal(*pair) for pair in zip(*seen, strict=True))
