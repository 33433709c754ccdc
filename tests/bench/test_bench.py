"""The benchmark: its arithmetic, the order of turns, what it writes, and its errors. Nothing here depends on a time."""

from __future__ import annotations

import functools
import json
import math
import mmap

import numpy as np
import pytest
import torch
from networks import VARIANTS
from PIL import Image
from torch import nn

from flatnext import cli, models
from flatnext.bench import baseline, child, convolution, inference, memory, startup, training
from flatnext.bench.baseline import BASELINE
from flatnext.bench.child import Child
from flatnext.bench.contender import Contender, random_partition
from flatnext.bench.plan import METHODS, BenchPlan, Setup, group_rounds, training_configs
from flatnext.bench.roofline import Rates, Work, inference_work, measure_rates, training_work
from flatnext.bench.table import format_bench
from flatnext.bench.timing import group_sums, interleave, ratios, spread
from flatnext.config import Amp, Model
from flatnext.data import CIFAR10, Normalization
from flatnext.errors import InputError
from flatnext.methods import bind

TINY = Model(blocks=(1, 1), cardinality=2, stem=8)
FLAGS = ["--blocks", "1,1", "--cardinality", "2", "--stem", "8", "--image-size", "8", "--batch-size", "4"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Return a benchmark of a tiny model, as the command wrote and printed it."""
    path = tmp_path_factory.mktemp("bench") / "bench.json"
    arguments = ["bench", *FLAGS, "--parts", "training", "inference", "--rounds", "1", "--methods", "amp"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child, "SETTLE", 0.0)
        for part in (training, inference):
            patch.setattr(part, "measure_rates", functools.partial(measure_rates, side=64, megabytes=1))
        assert cli.main([*arguments, "--recipes", "quick-amp", "--precision", "fp32", "--json", str(path)]) == 0
    return json.loads(path.read_text())


# Turns


def test_turns_are_interleaved_and_each_round_begins_one_further_on():
    order, said = [], []
    turns = {name: lambda name=name: order.append(name) or float(len(order)) for name in "abc"}
    samples = interleave(turns, 4, said.append)
    assert "".join(order) == "abcbcacababc"
    assert samples == {"a": [1, 6, 8, 10], "b": [2, 4, 9, 11], "c": [3, 5, 7, 12]}
    assert said == [f"round {number} of 4" for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9])
def test_spread_is_numpys(count):
    values = np.random.default_rng(count).random(count).tolist()
    low, middle, high = np.percentile(values, [25, 50, 75])
    assert spread(values) == pytest.approx({"median": middle, "low": low, "high": high, "n": count})


def test_groups_and_ratios():
    assert group_sums([1, 2, 3, 4, 5], 2) == [3, 7]
    assert ratios([2, 9, 8], [1, 3, 2]) == [2, 3, 4]
    assert ratios([8, 1, 1, 1], [1, 1, 1, 1], 4) == [11 / 4]


@pytest.mark.parametrize(("interval", "steps", "group"), [(1, 3, 1), (4, 1, 4), (4, 20, 1), (4, 6, 2), (3, 2, 3)])
def test_a_group_of_rounds_has_whole_periods(interval, steps, group):
    assert group_rounds(interval, steps, 8) == group
    assert group * steps % interval == 0
    assert all(fewer * steps % interval for fewer in range(1, group))


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


# The roofline


def test_work_counts_what_a_forward_pass_shows():
    model = models.build(TINY, 10)
    summary = models.summarize(model, 8)
    outputs, flops = [], []

    def note(module, inputs, output):
        if isinstance(module, nn.Conv2d):
            outputs.append(output.numel())
        flops.append(2 * output.numel() * module.weight[0].numel())

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(note)
    model.eval()(torch.zeros(6, 3, 8, 8))
    parameters = sum(p.numel() for p in model.parameters())
    for precision, size, kept in (("bf16", 2, 4), ("fp32", 4, 4), ("fp64", 8, 8)):
        work = training_work(summary, 6, precision)
        assert work.flops == 3 * sum(flops)
        assert work.traffic == 5 * size * sum(outputs) + 7 * kept * parameters
        work = inference_work(summary, 6, precision)
        assert work.flops == sum(flops)
        assert work.traffic == size * (2 * sum(outputs) + parameters)


def test_the_bound_is_the_larger_time():
    rates = Rates(matrix_rate=10.0, bandwidth=2.0)
    assert rates.seconds(Work(flops=40, traffic=6)) == 4
    assert rates.seconds(Work(flops=40, traffic=12)) == 6
    assert rates.best(Rates(5.0, 3.0)) == Rates(10.0, 3.0)


@pytest.mark.parametrize("precision", ["bf16", "fp32", "fp64"])
def test_rates_are_measured(precision):
    rates = measure_rates(CPU, precision, side=32, megabytes=1, repeats=2)
    assert rates.matrix_rate > 0
    assert math.isfinite(rates.bandwidth)


@pytest.mark.parametrize("name", METHODS)
def test_passes_are_those_that_the_rule_makes(name):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2), nn.LayerNorm(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    method = bind(METHODS[name], model, optimizer, total_steps=9)
    images, batches, number = torch.rand(2, 3, 2, 2), 0.0, 0

    def closure():
        nonlocal batches, number
        batches += method.share(step, number)
        number += 1
        optimizer.zero_grad()
        model(images).sum().backward()

    for step in range(4):
        number = 0
        method(closure, images, step)
        optimizer.step()
    assert batches / 4 == METHODS[name].passes


# The contenders


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


def test_configs_differ_in_the_method_and_recipes_keep_theirs():
    plan = BenchPlan(model=TINY, batch_size=4, precision="fp32", methods=("amp-norm",), recipes=("paper-amp",))
    configs = training_configs(plan)
    assert list(configs) == ["sgd", "amp-norm", "recipe paper-amp"]
    assert configs["amp-norm"].method == Amp(only="norm")
    assert configs["recipe paper-amp"].optimizer.clip_norm == 50
    assert {c.batch_size for c in configs.values()} == {4}
    assert {c.model.blocks for c in configs.values()} == {(1, 1)}


def test_on_a_gpu_eager_steps_are_measured_too():
    configs = training_configs(BenchPlan(methods=("amp",)), "cuda")
    assert {name: config.cuda_graph for name, config in configs.items() if not config.cuda_graph} == {
        "sgd, eager": False,
        "amp, eager": False,
    }
    assert configs["amp, eager"].method == configs["amp"].method


def test_every_form_of_the_grouped_convolution_is_measured_at_every_shape():
    plan = BenchPlan(
        model=Model(blocks=(2, 1, 2), cardinality=4), batch_size=2, image_size=8, rounds=2, precision="fp32"
    )
    model = models.build(plan.model, 10)
    seen = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.register_forward_hook(
                lambda m, inputs, _: seen.append((m.in_channels, inputs[0].shape[-1], m.stride[0]))
            )
    model.eval()(torch.zeros(1, 3, 8, 8))
    assert convolution.shapes(plan.model, 8) == list(dict.fromkeys(seen))
    part = convolution.measure_convolution(Setup(plan=plan, device=CPU, precision="fp32"))
    assert "merged16" in part["shapes"][0]["seconds"]
    assert [(s["channels"], s["size"], s["stride"]) for s in part["shapes"]] == list(dict.fromkeys(seen))
    for shape in part["shapes"]:
        assert {"kernel", "plain"} <= set(shape["seconds"])
        assert {len(times) for times in shape["seconds"].values()} == {2}
        assert shape["to_plain"]["plain"]["median"] == 1
    assert "| kernel |" in format_bench(fake_result("convolution", part))


# Processes of their own

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


# Whole parts


def test_the_file_has_versions_settings_and_every_sample(measured):
    assert measured["torch"] == torch.__version__
    assert {"python", "device_name", "threads", "date", "load", "platform"} <= measured.keys()
    assert measured["precision"] == "fp32"
    assert measured["plan"]["model"]["blocks"] == [1, 1]
    assert measured["command"].startswith("flatnext bench --blocks 1,1")
    part = measured["parts"]["training"]
    assert list(part["contenders"]) == [BASELINE, "sgd", "amp", "recipe quick-amp"]
    assert {name: len(times) for name, times in part["seconds"].items()} == dict.fromkeys(part["contenders"], 1)
    assert part["contenders"]["sgd"]["step_to_sgd"]["median"] == 1
    rate = 4 / part["seconds"]["amp"][0]
    assert part["contenders"]["amp"]["images_per_second"]["median"] == pytest.approx(rate)
    share = rate / (part["bound_images_per_second"] / 2)
    assert part["contenders"]["amp"]["share_of_bound"] == pytest.approx(share)
    assert list(measured["parts"]["inference"]["batches"]) == ["1", "4", "8"]
    for batch in measured["parts"]["inference"]["batches"].values():
        assert len(batch["contenders"]) == 3


def test_the_table_names_every_contender(measured):
    text = format_bench(measured)
    for name in (BASELINE, "sgd", "amp", "recipe quick-amp", "for_inference, fp32"):
        assert f"| {name} |" in text
    assert "Bound for one pass a step" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} <= {11, 10}


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
        assert memory.peak(self.settings) >= 0  # this process may have held more before
        return {"bytes": 2**28}


def test_memory_of_steps_and_of_epochs(monkeypatch):
    monkeypatch.setattr(memory, "Child", InProcess)
    monkeypatch.setitem(memory.TINY, "train_images", 64)
    plan = BenchPlan(model=TINY, batch_size=4, image_size=8, precision="fp32")
    result = memory.measure_memory(Setup(plan=plan, device=CPU, precision="fp32"))
    assert result["batch_size"] == 8
    assert list(result["peak_bytes"]) == [BASELINE, "sgd", "amp"]
    assert result["times_less_than_report"] == {BASELINE: 1, "sgd": 4, "amp": 4}
    assert len(result["epoch_bytes"]) == 5
    assert result["growth_bytes"] == result["epoch_bytes"][4] - result["epoch_bytes"][1]
    assert "from epoch 2 to the last" in format_bench(fake_result("memory", result))


def fake_result(name, part):
    facts = {"device_name": "chip", "threads": 1, "torch": "2", "python": "3", "precision": "fp32", "date": "today"}
    return {**facts, "plan": {"batch_size": 4, "image_size": 8}, "load": [None, 0.5], "parts": {name: part}}


def test_resident_memory_grows_with_what_is_held():
    before = memory.resident()
    with mmap.mmap(-1, 2**25) as held:  # not from the allocator, which may have memory left
        held.write(bytes(2**25))
        assert memory.resident() - before > 2**24
        assert memory.resident(peak=True) >= memory.resident() - 2**20


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


@pytest.mark.parametrize(("part", "name"), [("inference", "sk"), ("convolution", "basic"), ("convolution", "pyramid")])
def test_bench_refuses_parts_that_do_not_know_a_model(part, name):
    with pytest.raises(InputError, match=f"part {part} does not know block {VARIANTS[name].block}"):
        BenchPlan(parts=(part,), model=VARIANTS[name])
    assert BenchPlan(parts=("training", "memory"), model=VARIANTS[name]).model == VARIANTS[name]


BAD = [
    (["--rounds", "0"], "rounds is 0"),
    (["--steps", "0"], "steps is 0"),
    (["--batch-size", "1"], "batch_size is 1"),
    (["--rounds", "3"], "interval 4"),
    (["--rounds", "3", "--methods", "amp-every-4"], "whole period only in 4 rounds"),
    (["--parts", "everything"], "everything"),
    (["--parts", "memory", "memory"], "name each once"),
    (["--parts", "inference", "--methods", "amp"], "methods is of no use to inference"),
    (["--parts", "memory", "--rounds", "3"], "rounds is of no use to memory"),
    (["--parts", "training", "--data-dir", "x"], "data_dir is of no use"),
    (["--parts", "startup", "--model", "resnext11"], "model is of no use to startup"),
    (["--methods", "best-ever"], "best-ever"),
    (["--recipes", "best-ever"], "best-ever"),
    (["--image-size", "30"], "30x30"),
    (["--blocks", "0,1"], "blocks is (0, 1)"),
    (["--device", "abacus"], "abacus"),
    (["--json", "nowhere/bench.json"], "nowhere/bench.json"),
    (["--json", "."], "json is ."),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_flags_are_one_line_and_status_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        status = cli.main(["bench", *arguments])
    except SystemExit as error:
        status = error.code
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert message in captured.err
    assert not list(tmp_path.iterdir())
