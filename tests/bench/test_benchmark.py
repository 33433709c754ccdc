"""The command: what it writes and prints, and its errors. Nothing here depends on a time."""

from __future__ import annotations

import functools
import json

import pytest
import torch
from places import REPOSITORY

from flatnext import cli
from flatnext.bench import baseline, benchmark, child, inference, training
from flatnext.bench.baseline import BASELINE
from flatnext.bench.plan import BenchPlan
from flatnext.bench.roofline import measure_rates
from flatnext.bench.table import format_bench

FLAGS = ["--blocks", "1,1", "--cardinality", "2", "--stem", "8", "--image-size", "8", "--batch-size", "4"]


class InProcess:
    """Stands for a child that runs the baseline's inference: runs it in this process."""

    def __init__(self, module, settings):
        assert module == "flatnext.bench.baseline"
        self.contender = baseline.make(json.loads(json.dumps(settings)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, do, **request):
        assert do == "infer"
        return {"seconds": self.contender.infer(**request)}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Return a benchmark of a tiny model, as the command wrote and printed it."""
    path = tmp_path_factory.mktemp("bench") / "bench.json"
    arguments = ["bench", *FLAGS, "--parts", "training", "inference", "--rounds", "1", "--methods", "amp"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child, "SETTLE", 0.0)
        patch.setattr(inference, "Child", InProcess)
        for part in (training, inference):
            patch.setattr(part, "measure_rates", functools.partial(measure_rates, side=64, megabytes=1))
        assert cli.main([*arguments, "--recipes", "quick-amp", "--precision", "fp32", "--json", str(path)]) == 0
    return json.loads(path.read_text())


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


def test_the_commit_is_that_of_the_code_that_began(monkeypatch):
    def measure(setup):
        monkeypatch.setattr(benchmark, "commit", lambda: "later")
        return {}

    monkeypatch.setattr(benchmark, "commit", lambda: "now")
    monkeypatch.setitem(benchmark.MEASURES, "training", measure)
    assert benchmark.run_bench(BenchPlan(parts=("training",)))["commit"] == "now"


def test_the_table_names_every_contender(measured):
    text = format_bench(measured)
    for name in (BASELINE, "sgd", "amp", "recipe quick-amp", "for_inference, fp32"):
        assert f"| {name} |" in text
    assert "Bound for one pass a step" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} <= {11, 10}


@pytest.mark.parametrize("path", sorted((REPOSITORY / "docs" / "bench").glob("*.json")), ids=lambda path: path.stem)
def test_the_published_measurements_are_tables(path):
    result = json.loads(path.read_text())
    text = format_bench(result)
    assert text.count("\n| --- |") == len(result["parts"])
    assert text.startswith(result["device_name"])


BAD = [
    (["--rounds", "0"], "rounds is 0"),
    (["--steps", "0"], "steps is 0"),
    (["--batch-size", "1"], "batch_size is 1"),
    (["--rounds", "3"], "perturb_every 4"),
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
