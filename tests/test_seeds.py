"""Streams of random numbers: two seeds, two numbers and two streams never share one."""

import torch

from flatnext import methods
from flatnext.config.method import Rmp
from flatnext.seeds import mix


def test_every_combination_has_a_stream_of_its_own_in_torchs_generator():
    # torch's CPU generator keeps 32 bits of a seed, so the numbers themselves do not show it.
    drawn = {
        tuple(torch.randint(2**31, (2,), generator=torch.Generator().manual_seed(mix(seed, number, *stream))).tolist())
        for seed in range(20)
        for number in (0, 1, 2, 1000)
        for stream in ((), (1,), (2,))
    }
    assert len(drawn) == 20 * 4 * 3


def test_two_seeds_of_a_run_perturb_at_random_by_different_noise():
    def noise(seed, step):
        model = torch.nn.Linear(4, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        method = methods.bind(Rmp(), model, optimizer, total_steps=9, seed=seed)
        method.prepare(step)
        return torch.randn(4, generator=method.generator)

    assert torch.equal(noise(0, 1), noise(0, 1))
    assert not torch.equal(noise(0, 1), noise(1, 1))
    assert not torch.equal(noise(0, 1), noise(0, 2))
