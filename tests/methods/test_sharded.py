"""The rules and the optimizer classes with FSDP2 and DistributedDataParallel, in two processes that run this file."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import flatnext

RULES = {
    "amp": functools.partial(flatnext.amp, epsilon=0.1),
    "amp-three": functools.partial(flatnext.amp, epsilon=0.1, inner_iter=3),
    "amp-global": functools.partial(flatnext.amp, epsilon=0.1, ball="global"),
    "amp-each": functools.partial(flatnext.amp, epsilon=[0.1, 0.2, 0.3, 0.4]),
    "sam": functools.partial(flatnext.sam, rho=0.1),
    "asam": functools.partial(flatnext.asam, rho=0.5),
    "rmp": functools.partial(flatnext.rmp, epsilon=0.1),
    "rmp-global": functools.partial(flatnext.rmp, epsilon=0.1, ball="global"),
    "momentum-amp": functools.partial(flatnext.momentum_amp, epsilon=0.1),
}
CLASSES = {
    "AMP": functools.partial(flatnext.AMP, epsilon=0.1),
    "SAM": functools.partial(flatnext.SAM, rho=0.1),
    "ASAM": functools.partial(flatnext.ASAM, rho=0.5),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def sharded():
    model = network()
    for layer in (model[0], model[2], model):
        fully_shard(layer)
    return model


HOW = {
    "sharded": sharded,
    "replicated": lambda: DistributedDataParallel(network()),
    "bucket views": lambda: DistributedDataParallel(network(), gradient_as_bucket_view=True),
}


def whole(tensor):
    """Return a tensor as one process has it."""
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


def three_steps(name, model, images, labels, set_to_none):
    """Return the gradients and weights after three steps, and whether the rule left the weights as they were."""
    options = {"lr": 0.1, "momentum": 0.9}
    optimizer = (CLASSES.get(name) or torch.optim.SGD)(model.parameters(), **options)
    rule = RULES.get(name)
    if rule and name.startswith("rmp"):
        rule = functools.partial(rule, generator=torch.Generator().manual_seed(0))
    if name == "momentum-amp":
        rule = functools.partial(rule, optimizer=optimizer)
    back = True

    def closure():
        model.zero_grad(set_to_none)
        F.cross_entropy(model(images), labels).backward()

    for _ in range(3):
        if rule:
            before = [whole(p) for p in model.parameters()]
            rule(closure, model.parameters(), model.buffers())
            back &= all(torch.equal(a, whole(b)) for a, b in zip(before, model.parameters(), strict=True))
            optimizer.step()
        else:
            optimizer.step(closure)
    return {"found": [whole(t) for p in model.parameters() for t in (p.grad, p)], "back": back}


def restarted(model, again, images, labels):
    """Return the same of SAM around ZeroRedundancyOptimizer, whose last step a new optimizer takes from its state."""
    from torch.distributed.optim import ZeroRedundancyOptimizer  # which warns of torch's own module

    def make(model):
        base = {"base_optimizer": ZeroRedundancyOptimizer, "optimizer_class": torch.optim.SGD, "momentum": 0.9}
        return flatnext.SAM(model.parameters(), lr=0.1, rho=0.1, **base)

    def step(model, optimizer):
        optimizer.step(lambda: F.cross_entropy(model(images), labels).backward())

    optimizer, kept = make(model), [None]
    for _ in range(2):
        step(model, optimizer)
    optimizer.base_optimizer.consolidate_state_dict(to=0)
    if dist.get_rank() == 0:
        kept[0] = optimizer.state_dict()
    dist.broadcast_object_list(kept)
    again.load_state_dict(model.state_dict())
    fresh = make(again)
    fresh.load_state_dict(kept[0])
    step(again, fresh)
    return [whole(t) for p in again.parameters() for t in (p.grad, p)]


def work(rank):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(16, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (16,), generator=generator)
    found = {}
    for name in [*RULES, *CLASSES]:
        found[name, "alone"] = three_steps(name, network(), images, labels, True)
        for how, make in HOW.items():
            for set_to_none in (True, False):
                found[name, how, set_to_none] = three_steps(name, make(), images[rank::2], labels[rank::2], set_to_none)
    make = HOW["replicated"]
    found["restarted"] = restarted(make(), make(), images[rank::2], labels[rank::2])
    return found


def main(folder, rank):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(work(rank), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Return what each of two processes found, all of it from one launch."""
    from two_processes import environment, run_together  # the processes that run this file do not find it

    folder = tmp_path_factory.mktemp("both")
    commands = [[sys.executable, __file__, str(folder), str(rank)] for rank in range(2)]
    statuses, errors = run_together(commands, [environment()] * 2)
    assert statuses == [0, 0], errors
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.skipif(not dist.is_available() or sys.platform == "win32", reason="no torch.distributed with gloo")
@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", [*RULES, *CLASSES])
def test_three_steps_in_two_processes_equal_those_in_one(both, name, how, set_to_none):
    for found in both:
        result = found[name, how, set_to_none]
        assert result["back"]
        for ours, alone in zip(result["found"], found[name, "alone"]["found"], strict=True):
            torch.testing.assert_close(ours, alone, rtol=1e-9, atol=1e-12)


@pytest.mark.skipif(not dist.is_available() or sys.platform == "win32", reason="no torch.distributed with gloo")
def test_the_state_of_a_zero_redundancy_optimizer_is_saved_and_loaded(both):
    for found in both:
        for ours, alone in zip(found["restarted"], found["SAM", "alone"]["found"], strict=True):
            torch.testing.assert_close(ours, alone, rtol=1e-9, atol=1e-12)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
