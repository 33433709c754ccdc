"""The memory that training takes, said before it is taken."""

import json
import subprocess
import sys

import pytest
import torch
from tiny import TINY
from torch import nn

from flatnext.bench.contender import random_partition
from flatnext.config import Config
from flatnext.errors import InputError
from flatnext.runs.folder import RunFolder
from flatnext.training import RunState, train
from flatnext.training.memory import PEAK, at_a_time, estimate, free_bytes, kept_bytes, require_memory

MEASURE = """
import json, sys, torch
from flatnext.bench.contender import Contender, random_partition
from flatnext.bench.memory import resident
from flatnext.config import Config
from flatnext.training.memory import estimate
config = Config.from_json(json.loads(sys.argv[1]))
contender = Contender(config, random_partition(2 * config.batch_size, config.data.image_size), torch.device("cpu"))
expected = estimate(contender.run)
before = resident()
contender.train(1)
print(json.dumps([expected.needed(config.batch_size), resident(peak=True) - before]))
"""


def state(tmp_path, size, **settings):
    config = Config().override({**TINY, "train_images": None, "validation": None, "image_size": size, **settings})
    return RunState(config, RunFolder(tmp_path), random_partition(64, size), torch.device("cpu"))


def test_what_a_forward_pass_keeps_is_counted_as_by_hand():
    # The convolution keeps its input (2 x 3 x 8 x 8), ReLU its output (2 x 4 x 8 x 8), in 4 bytes a number; parameters
    # are not counted.
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    assert kept_bytes(model, torch.zeros(2, 3, 8, 8)) == 4 * (2 * 3 * 64 + 2 * 4 * 64)


def test_it_grows_with_the_area_of_an_image(tmp_path):
    small, large = (estimate(state(tmp_path, size)) for size in (32, 96))
    assert large.an_image == pytest.approx(9 * small.an_image)
    assert large.weights == small.weights


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 24, "image_size": 32},
        pytest.param({"batch_size": 8, "image_size": 48}, marks=pytest.mark.slow),
    ],
)
def test_the_estimate_is_near_what_a_process_takes(settings):
    config = Config().override({"recipe": "amp", "blocks": (1, 1, 1), "precision": "fp32", **settings})
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(config.to_json())], capture_output=True, text=True, check=True
    )
    expected, taken = json.loads(done.stdout)
    assert 0.75 < expected / taken < 1.5  # systems that reclaim idle memory make the peak smaller


def test_a_run_that_does_not_fit_is_refused_with_what_does(tmp_path):
    run = state(tmp_path, 32, batch_size=64)
    memory = estimate(run)
    free = memory.needed(16) / 0.9  # enough for 16 images, with the tenth that is left
    with pytest.raises(InputError) as error:
        require_memory(run, free)
    assert f"training takes about {memory.needed(64) / 1e9:.1f} GB" in str(error.value)
    for settings in ({"grad_accum_steps": 4}, {"batch_size": 16}, {"image_size": 16}):
        name, value = next(iter(settings.items()))
        assert f"--{name.replace('_', '-')} {value}" in str(error.value)
        size = settings.pop("image_size", 32)
        require_memory(state(tmp_path, size, **{"batch_size": 64, **settings}), 1.02 * free)


def test_how_many_runs_fit_at_a_time(tmp_path):
    run = state(tmp_path, 32, batch_size=64)
    needed = estimate(run).needed(64)
    assert [at_a_time(run, free) for free in (3 * needed / 0.89, 0.5 * needed)] == [3, 1]


def test_nothing_of_a_refused_run_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("flatnext.training.memory.free_bytes", lambda: 1e4)
    with pytest.raises(InputError, match=r"GB are free: choose a smaller --model would fit|would fit"):
        train(Config().override(TINY), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from /proc")
def test_free_memory_is_read():
    assert 1e6 < free_bytes() < 1e15
    assert PEAK > 1
