"""Convolution, memory and start-up: what they measure, and their tables."""

from __future__ import annotations

import json
import mmap

import pytest
import torch
from networks import VARIANTS
from torch import nn

from flatnext import models
from flatnext.bench import convolution, memory, startup
from flatnext.bench.baseline import BASELINE
from flatnext.bench.plan import BenchPlan, Setup
from flatnext.bench.table import format_bench
from flatnext.config import Model
from flatnext.errors import InputError

TINY = Model(blocks=(1, 1), cardinality=2, stem=8)


CPU = torch.device("cpu")


def fake_result(name, part):
    facts = {"device_name": "chip", "threads": 1, "torch": "2", "python": "3", "precision": "fp32", "date": "today"}
    return {**facts, "plan": {"batch_size": 4, "image_size": 8}, "load": [None, 0.5], "parts": {name: part}}


def test_every_form_of_the_convolutions_is_measured_at_every_shape():
    plan = BenchPlan(
        model=Model(blocks=(2, 1, 2), cardinality=4), batch_size=2, image_size=8, rounds=2, precision="fp32"
    )
    model = models.build(plan.model, 10)
    seen = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and (module.groups > 1 or module.kernel_size == (1, 1)):
            module.register_forward_hook(
                lambda m, inputs, _: seen.append(
                    f"{m.kernel_size[0]}x{m.kernel_size[0]}, {m.in_channels} to {m.out_channels} channels at "
                    f"{inputs[0].shape[-1]}x{inputs[0].shape[-1]}, stride {m.stride[0]}"
                )
            )
    model.eval()(torch.zeros(1, 3, 8, 8))
    part = convolution.measure_convolution(Setup(plan=plan, device=CPU, precision="fp32"))
    assert [shape["title"] for shape in part["shapes"]] == list(dict.fromkeys(seen))
    assert any("merged16" in shape["seconds"] for shape in part["shapes"])
    for shape in part["shapes"]:
        assert {"kernel", "plain"} <= set(shape["seconds"])
        assert {len(times) for times in shape["seconds"].values()} == {2}
        assert shape["to_plain"]["plain"]["median"] == 1
    assert "| kernel |" in format_bench(fake_result("convolution", part))


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - {"pyramid-basic"}))
def test_the_convolutions_of_every_model_are_found(name):
    assert convolution.layers(VARIANTS[name], 32)


class InProcess:
    """Stands for a child: measures in this process."""

    def __init__(self, module, settings):
        assert module == "flatnext.bench.memory"
        self.settings = json.loads(json.dumps(settings))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, what):
        if what == "growth":
            return {"bytes": memory.growth("cpu")}
        if self.settings["config"] is None:
            return {"bytes": 2**30}
        assert 0 <= memory.peak(self.settings) < 2**30  # 0 where this process has memory left from other tests
        return {"bytes": 2**28}


def test_memory_of_steps_and_of_epochs(monkeypatch):
    monkeypatch.setattr(memory, "Child", InProcess)
    monkeypatch.setitem(memory.TINY, "train_images", 64)
    plan = BenchPlan(model=TINY, batch_size=4, image_size=8, precision="fp32", methods=("sam",))
    result = memory.measure_memory(Setup(plan=plan, device=CPU, precision="fp32"))
    assert result["batch_size"] == 8
    assert list(result["peak_bytes"]) == [BASELINE, "sgd", "amp"]
    assert result["times_less_than_report"] == {BASELINE: 1, "sgd": 4, "amp": 4}
    assert len(result["epoch_bytes"]) == 5
    assert result["growth_bytes"] == result["epoch_bytes"][4] - result["epoch_bytes"][1]
    assert "from epoch 2 to the last" in format_bench(fake_result("memory", result))


def test_resident_memory_grows_with_what_is_held():
    before = memory.resident()
    with mmap.mmap(-1, 2**25) as held:  # not from the allocator, which may have memory left
        held.write(bytes(2**25))
        assert memory.resident() - before > 2**24
        assert memory.resident(peak=True) >= memory.resident() - 2**20


def test_the_peak_counts_what_was_given_back():
    def take(_):
        with mmap.mmap(-1, 2**25) as held:
            held.write(bytes(2**25))

    assert memory.peak_of(take, CPU) > 2**24


def test_start_up_is_timed_to_the_first_step(tmp_path, monkeypatch):
    assert startup.dataset_here(str(tmp_path)) == "digits"
    (tmp_path / "cifar-10-batches-bin").mkdir()
    assert startup.dataset_here(str(tmp_path)) == "cifar10"
    assert startup.to_first_step("digits", str(tmp_path), "cpu") > 0
    monkeypatch.setattr(startup, "whole", lambda *arguments: 0.5)
    monkeypatch.setattr(startup, "to_first_step", lambda *arguments: 2.0)
    plan = BenchPlan(rounds=2, data_dir=str(tmp_path))
    result = startup.measure_startup(Setup(plan=plan, device=CPU, precision="fp32"))
    assert result["seconds"]["flatnext --help"] == [0.5, 0.5]
    assert "| flatnext train, to the first step (cifar10) | 2.00 | 2.00 to 2.00 | 2 |" in format_bench(
        fake_result("startup", result)
    )


def test_a_command_that_fails_is_an_input_error():
    with pytest.raises(InputError, match="no such thing"):
        startup.run_command("-c", "raise SystemExit('no such thing')")
