"""The contenders: the baseline's images, this project's steps, processes of their own, and results on known times."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from flatnext.bench import baseline, inference, training
from flatnext.bench.baseline import BASELINE
from flatnext.bench.child import Child
from flatnext.bench.contender import Contender, random_partition
from flatnext.bench.plan import BenchPlan, training_configs
from flatnext.config import Model
from flatnext.data import CIFAR10, Normalization
from flatnext.errors import InputError

TINY = Model(blocks=(1, 1), cardinality=2, stem=8)


CPU = torch.device("cpu")


def test_the_baselines_images_are_windows_of_the_padded_image():
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(1, 256, (8, 8, 3), dtype=np.uint8)
    padded = np.pad(pixels, ((2, 2), (2, 2), (0, 0)))
    windows = {padded[i : i + 8, j : j + 8].tobytes(): (i, j) for i in range(5) for j in range(5)}
    found = {windows[np.array(baseline.random_crop(Image.fromarray(pixels), 2)).tobytes()] for _ in range(300)}
    assert len(found) == 25
    flips = [np.array(baseline.random_flip(Image.fromarray(pixels))) for _ in range(200)]
    mirrored = [bool((flip == pixels[:, ::-1]).all()) for flip in flips]
    assert all(m or (flip == pixels).all() for m, flip in zip(mirrored, flips, strict=True))
    assert 70 < sum(mirrored) < 130


def test_the_baselines_numbers_are_the_loaders():
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    ours = Normalization(baseline.MEAN, baseline.STD)(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0]
    theirs = baseline.normalize(baseline.to_tensor(Image.fromarray(pixels)))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)


def test_a_contender_takes_its_steps_over_the_end_of_an_epoch():
    plan = BenchPlan(model=TINY, batch_size=4, image_size=8, precision="fp32")
    contender = Contender(training_configs(plan)["amp"], random_partition(12, 8), CPU)
    before = contender.run.model.linear.weight.clone()
    assert contender.train(5) > 0
    assert (contender.run.epoch, contender.run.step_in_epoch, contender.run.step) == (1, 2, 5)
    assert contender.run.partition.normalization == CIFAR10
    assert not torch.equal(before, contender.run.model.linear.weight)


def test_contenders_on_known_times():
    samples = {BASELINE: [8.0] * 4, "sgd": [2.0] * 4, "amp-every-4": [4.0, 2.0, 2.0, 2.0]}
    bounds = {BASELINE: 20.0, "sgd": 20.0, "amp-every-4": 16.0}
    table = training.results(samples, 32, {"amp-every-4": 4}, bounds)
    assert table["sgd"]["images_per_second"] == {"median": 16, "low": 16, "high": 16, "n": 4}
    assert table["sgd"]["times_report"]["median"] == 4
    assert table["sgd"]["share_of_bound"] == 0.8
    assert table["sgd"]["epoch_seconds_estimated"] == 3125
    assert table["amp-every-4"]["step_to_sgd"] == {"median": 1.25, "low": 1.25, "high": 1.25, "n": 1}
    assert table["amp-every-4"]["images_per_second"]["median"] == pytest.approx(12.8)
    assert table[BASELINE]["times_report"]["median"] == 1


def test_rates_of_inference_on_known_times():
    table = inference.results({inference.USUAL: [8.0, 8.0], "for_inference, int8": [2.0, 2.0]}, 4, 10, bound=20.0)
    assert table[inference.USUAL]["images_per_second"]["median"] == 5
    assert table[inference.USUAL]["share_of_bound"] == 0.25
    assert table["for_inference, int8"]["times_usual"]["median"] == 4
    assert table["for_inference, int8"]["milliseconds_a_call"]["median"] == 200
    assert table["for_inference, int8"]["share_of_bound"] is None


ECHO = """
import os
from flatnext.bench.child import serve
serve(lambda request: {**request, "malloc": [name for name in os.environ if name.startswith("MALLOC_")]})
"""


def test_a_child_answers_and_has_the_allocators_defaults(tmp_path, monkeypatch):
    (tmp_path / "echo_child.py").write_text(ECHO)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    with Child("echo_child", {}) as echo:
        assert echo.ask(x=1) == {"x": 1, "malloc": []}
        assert echo.ask(x="two")["x"] == "two"
    assert echo.process.returncode == 0


def test_a_child_that_dies_is_an_input_error():
    with Child("flatnext.no_such_module", {}) as dead, pytest.raises(InputError, match="ended with status 1"):
        dead.ask(x=1)
