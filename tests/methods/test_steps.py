"""When a method perturbs, when it is plain training, and which parameters it perturbs."""

import copy
from dataclasses import replace

import pytest
import torch
from methods_table import (
    FULL,
    TABLE,
    Case,
    bits,
    bn_network,
    image_batches,
    make_step,
    perturbing,
    same_bits,
    started,
    take,
    watch,
)
from torch import nn
from torch.nn import functional as F

import flatnext
from flatnext.config import Amp
from flatnext.config.method import Adversarial, Asam, MomentumAmp, Sam
from flatnext.errors import InputError
from flatnext.training import make_optimizer

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


@pytest.mark.parametrize("only", ["all", "norm"])
def test_what_is_frozen_or_trained_from_a_step_on_is_perturbed_so_from_there_on(only):
    case = Case(Sam(rho=0.1, only=only))
    model, step = bn_network(case.precision), None
    model[1].requires_grad_(False)
    step = make_step(model, case, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    seen = watch(model)
    for number, trained in enumerate((False, True, False)):
        model[1].requires_grad_(trained)
        before = bits(model[1].parameters())
        seen.clear()
        take(step, image_batches(1, case.precision)[0], number)
        names = [name for name, _ in model.named_parameters()]
        second = [seen[1][0][names.index(name)] for name in ("1.weight", "1.bias")]
        assert [not torch.equal(a, b) for a, b in zip(before, second, strict=True)] == [trained] * 2


def test_the_parameters_of_norms_are_given_once_each():
    model = nn.Sequential(nn.LayerNorm(4), nn.LayerNorm(4))
    model[1].weight = model[0].weight
    assert [id(p) for p in flatnext.methods.norm_parameters(model)] == [id(p) for p in model.parameters()]


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
