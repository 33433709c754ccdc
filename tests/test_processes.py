"""Many processes: that they take the steps that one would take, end cleanly, and go on after one has died."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import oracle_methods
import process_worker
import pytest
import torch
from methods_table import bn_network, image_batches, oracle_batches, oracle_options, oracle_weights
from ports import free_port
from process_worker import CASES, PER_RANK, SIZES, STEPS, work
from same_run import weights
from tiny import tiny
from torch import nn
from torch.nn import functional as F
from two_processes import environment, run_together

import flatnext
from flatnext import cli, models
from flatnext.config import METHODS
from flatnext.errors import InputError
from flatnext.processes import ALONE, join_processes
from flatnext.training import train

WORKER = Path(process_worker.__file__)
ABORTED = ("terminate called", "Aborted", "core dumped", "Warning", "Segmentation")


def launch_two(folder):
    """Run process_worker.py in two processes; return exit statuses and what they wrote to standard error."""
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = [environment(RANK=str(rank), LOCAL_RANK=str(rank), **rendezvous) for rank in range(2)]
    return run_together([[sys.executable, str(WORKER), str(folder)]] * 2, ranks)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Return what each of two processes found, all of it from one launch."""
    for _ in range(3):  # somebody else may take the port in between
        folder = tmp_path_factory.mktemp("both")
        statuses, errors = launch_two(folder)
        if not any("EADDRINUSE" in text for text in errors):
            break
    assert statuses == [0, 0], errors
    assert not any(word in text for word in ABORTED for text in errors), errors
    results = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
    return *results, (folder / "log").read_text()


@pytest.fixture(scope="module")
def alone():
    """Return what one process finds."""
    return work(ALONE)


def assert_close(left, right, tolerance):
    for a, b in zip(left, right, strict=True):
        assert np.abs(np.asarray(a) - np.asarray(b)).max() < tolerance


# Two processes, one launch


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_processes_equal_one(both, alone, case):
    expected = alone["cases"][str(case)]
    for result in both[:2]:
        assert_close(result["cases"][str(case)]["weights"], expected["weights"], 1e-6)
        assert result["cases"][str(case)]["metrics"] == pytest.approx(expected["metrics"], abs=1e-6)
    pairs = zip(*(result["cases"][str(case)]["weights"] for result in both[:2]), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("case", PER_RANK, ids=str)
def test_per_rank_perturbs_by_halves(both, case):
    batches = oracle_batches(STEPS, SIZES)
    expected, losses = oracle_methods.train(
        oracle_weights(), batches, case.method.name, case.settings(), shares=2, **oracle_options(case)
    )
    sizes = [len(labels) for _, labels in batches]
    for result in both[:2]:
        assert_close(result["m_sharpness"][str(case)]["weights"], expected, 1e-9)
        assert result["m_sharpness"][str(case)]["metrics"][0] == pytest.approx(
            np.average(losses, weights=sizes), abs=1e-9
        )


@pytest.mark.parametrize("case", [c for c in PER_RANK if c.clip_norm is None], ids=str)
def test_per_rank_in_one_process_changes_nothing(alone, case):
    ours, theirs = alone["m_sharpness"][str(case)], alone["cases"][str(case.but(m_sharpness=False))]
    assert all(torch.equal(a, b) for a, b in zip(ours["weights"], theirs["weights"], strict=True))


def test_per_rank_is_another_method_than_the_average():
    for case in PER_RANK:
        if case.method.name in ("amp", "sam", "asam"):
            batches, options = oracle_batches(STEPS, SIZES), oracle_options(case)
            apart, whole = (
                oracle_methods.train(oracle_weights(), batches, case.method.name, case.settings(), shares=n, **options)
                for n in (2, 1)
            )
            assert max(np.abs(a - b).max() for a, b in zip(apart[0], whole[0], strict=True)) > 1e-5


@pytest.mark.parametrize("case", CASES, ids=str)
def test_batch_norms_statistics_are_the_average_and_the_same_in_both(both, case):
    first, second = (result["batch_norm"][str(case)]["last"] for result in both[:2])
    assert all(torch.equal(first[name], second[name]) for name in first)
    images, _ = image_batches(1, "fp64")[0]
    halves = []
    for rank in range(2):
        model = bn_network("fp64")
        for x in images[rank::2].chunk(case.grad_accum_steps):
            model(x)
        halves.append(dict(model.named_buffers()))
    result = both[0]["batch_norm"][str(case)]["first"]
    for name, value in halves[0].items():
        expected = (value + halves[1][name]) / 2 if value.is_floating_point() else value
        torch.testing.assert_close(result[name], expected, rtol=1e-12, atol=1e-12)


def test_predictions_are_those_of_one_process_for_any_count(both, alone):
    for count, logits in alone["predict"].items():
        assert logits.shape == (count, 3)
        for result in both[:2]:
            torch.testing.assert_close(result["predict"][count], logits, rtol=1e-12, atol=1e-12)


def test_a_loss_that_is_not_finite_in_one_process_ends_both_at_that_step(both, alone):
    assert alone["bad_loss"] == ("NonFiniteLossError", (3,))
    assert [result["bad_loss"] for result in both[:2]] == [("NonFiniteLossError", (3,))] * 2


def test_whether_to_go_back_is_the_same_in_both_whatever_each_sees_on_disk(both):
    for result in both[:2]:
        assert result["rollback"] == {0: {"saved": 0, "words": None}, 1: {"saved": 1, "words": None}}


def test_the_metrics_of_a_checkpoint_is_counted_once(both, alone):
    for result in (*both[:2], alone):
        assert result["loaded"]["sums"].tolist() == [6.0, 3.0, 12.0]
        assert result["loaded"]["seconds"] == 2.0


def test_what_processes_tell_each_other(both):
    first, second = (result["exchanges"] for result in both[:2])
    for each in (first, second):
        assert each["any"] == [False, True, True]
        assert each["on_first"] == {"rank": 0}
        assert each["error"] == ("InputError", ("no such file: give another",))
        assert torch.equal(each["sum"][0], torch.full((3, 2), 3.0))
        assert each["sum"][1] == 10.0
        assert each["average"][0].tolist() == [2.0, 2.0]
    assert (first["called"], second["called"]) == ([0], [])
    assert (first["first_then_others"], second["first_then_others"]) == (0, 1)
    assert both[2] == "0\n1\n"
    assert [first["share"].tolist(), second["share"].tolist()] == [[0, 2, 4, 6], [1, 3, 5]]


def test_a_group_that_is_there_already_is_used_and_left(both):
    assert [result["again"] for result in both[:2]] == [(0, 2, [True]), (1, 2, [True])]
    assert [result["device"] for result in both[:2]] == ["cpu", "cpu"]


# One process


def test_without_torchrun_it_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_processes("cpu") as (processes, device):
        assert (processes, device) == (ALONE, "cpu")
    tensor = torch.ones(2)
    ALONE.sum([tensor])
    ALONE.average([tensor])
    assert tensor.tolist() == [1.0, 1.0]
    assert ALONE.any([True, False]) == [True, False]
    assert ALONE.on_first(lambda: 3) == ALONE.first_then_others(lambda: 3) == 3


def started_by_torchrun(monkeypatch):
    """Set what torchrun says to the first of two processes."""
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29500")):
        monkeypatch.setenv(name, value)


def test_one_gpu_cannot_be_that_of_all_processes(monkeypatch):
    started_by_torchrun(monkeypatch)
    with pytest.raises(InputError, match="--device cuda"), join_processes("cuda:1"):
        pass


@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.parametrize(("gpus", "remedy"), [(0, "--device cpu"), (1, "--nproc-per-node 1, or --device cpu")])
def test_fewer_gpus_than_processes_are_said_by_each(monkeypatch, gpus, remedy, rank):
    started_by_torchrun(monkeypatch)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(InputError, match=f"2 here have {gpus}: give {remedy}"), join_processes("cuda"):
        pass


@pytest.mark.parametrize("arguments", [["train", "--epochs", "many"], ["train", "--epsilon", "1"], ["trian"]], ids=str)
def test_one_process_alone_says_what_is_wrong(arguments, monkeypatch, capsys):
    started_by_torchrun(monkeypatch)
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        try:
            status = cli.main(arguments)
        except SystemExit as error:
            status = error.code
        assert status == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("error:") == lines


STANDS_STILL = """
import os, signal, sys
from flatnext.errors import InputError
from flatnext.processes import join_processes
try:
    with join_processes("cpu") as (processes, _):
        assert processes.any([True]) == [True]
        if not processes.first:
            os.kill(os.getpid(), signal.SIGSTOP)
        processes.any([False])
except InputError as error:
    sys.exit(str(error))
"""


def test_a_process_that_stands_still_does_not_hold_up_the_others_for_ever():
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", STANDS_STILL],
            env=environment(RANK=str(rank), FLATNEXT_TIMEOUT="5", **rendezvous),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        error = running[0].communicate(timeout=120)[1]
    finally:
        for process in running:
            process.kill()
            process.wait()
            process.stderr.close()
    assert running[0].returncode == 1
    assert "another process has not answered for 5 seconds" in error
    assert "FLATNEXT_TIMEOUT" in error


# The command under torchrun

FLAGS = [
    *("--recipe", "quick-amp", "--epochs", "2", "--batch-size", "32", "--train-images", "100", "--validation", "41"),
    *("--blocks", "1,1", "--cardinality", "2", "--stem", "8", "--lr", "0.02", "--precision", "fp64"),
    *("--ema", "0.9", "--mixup", "0.5", "--augment", "trivial", "--early-sizes", "4"),
]
CHANGES = {"validation": 41, "precision": "fp64", "ema": 0.9, "mixup": 0.5, "augment": "trivial", "early_sizes": (4,)}


def torchrun(folder, *arguments, options=(), **changes):
    """Run the command in two processes in a folder; return what came of it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]
    done = subprocess.run(
        [*command, "-m", "flatnext", *map(str, arguments)],
        cwd=folder,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert not any(word in done.stderr for word in ABORTED), done.stderr
    return done


def measured(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return how a run of two processes ended, and its folder."""
    folder = tmp_path_factory.mktemp("two")
    return torchrun(folder, "train", *FLAGS, "--output", "run"), folder / "run"


def test_the_command_runs_in_two_processes_and_one_speaks_and_writes(trained):
    done, folder = trained
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "run"
    assert done.stdout.count("test accuracy") == 2  # last and best
    assert done.stderr.count("epoch 1,") == 1
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        *("config.json", "environment.json", "metrics.jsonl", "result.json"),
        *("last.safetensors", "best.safetensors", "tensorboard"),
    }
    assert len(list((folder / "tensorboard").iterdir())) == 1
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["processes"] == 2
    assert len(environment["sessions"]) == 1
    assert [line["step"] for line in measured(folder)] == [4, 8]


@pytest.mark.parametrize("split", ["test", "validation"])
def test_the_scores_are_those_of_one_process_on_every_image(trained, split):
    folder = trained[1]
    own = flatnext.evaluate(folder, split=split, device="cpu")
    result = json.loads((folder / "result.json").read_text())["last"][split]
    assert own["count"] == result["count"] == {"test": 360, "validation": 41}[split]
    assert own["accuracy"] == result["accuracy"]
    assert own["loss"] == pytest.approx(result["loss"], abs=1e-12)
    assert result["confusion"] in (None, own["confusion"])


class HalvesNorm(nn.BatchNorm2d):
    """Batch norm of two processes in one: each half of a batch by itself, the running statistics averaged."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        self.num_batches_tracked += 1
        output, kept = torch.empty_like(x), []
        for rank in range(2):
            running = self.running_mean.clone(), self.running_var.clone()
            output[rank::2] = F.batch_norm(x[rank::2], *running, self.weight, self.bias, True, self.momentum, self.eps)
            kept.append(running)
        self.running_mean.copy_((kept[0][0] + kept[1][0]) / 2)
        self.running_var.copy_((kept[0][1] + kept[1][1]) / 2)
        return output


def test_a_run_of_two_equals_a_run_of_one_whose_batch_norm_sees_halves(trained, tmp_path, monkeypatch):
    real = models.build

    def build(*arguments):
        model = real(*arguments)
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = HalvesNorm
        return model

    monkeypatch.setattr(models, "build", build)
    train(tiny("quick-amp", **CHANGES), tmp_path / "run", device="cpu")
    ours, theirs = weights(trained[1]), weights(tmp_path / "run")
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6)
    for two, one in zip(measured(trained[1]), measured(tmp_path / "run"), strict=True):
        for key in ("step", "learning_rate", "train_loss", "train_accuracy", "validation_loss", "test_accuracy"):
            assert two[key] == pytest.approx(one[key], abs=1e-6)


HOOK = f"""\
import os

if "RANK" in os.environ:
    import flatnext.training.trainer
    from torch.optim.optimizer import register_optimizer_step_post_hook

    flatnext.training.trainer.CHECKPOINT_SECONDS = float(os.environ.get("TEST_CHECKPOINT_SECONDS", "300"))
    steps = []

    def hook(*_):
        steps.append(1)
        if len(steps) == 6:
            os.kill(os.getpid(), {int(signal.SIGKILL)})

    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        register_optimizer_step_post_hook(hook)
"""


@pytest.mark.parametrize(
    ("seconds", "step"),
    [pytest.param("0", 5, id="in-the-epoch"), pytest.param("300", 4, id="after-an-epoch", marks=pytest.mark.slow)],
)
def test_a_run_whose_process_is_killed_goes_on_and_ends_with_the_same_weights(trained, tmp_path, seconds, step):
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    done = torchrun(
        tmp_path,
        *("train", *FLAGS, "--output", "run"),
        options=["--max-restarts", "1"],
        PYTHONPATH=str(tmp_path / "hook"),
        TEST_CHECKPOINT_SECONDS=seconds,
    )
    assert done.returncode == 0, done.stderr
    sessions = json.loads((tmp_path / "run" / "environment.json").read_text())["sessions"]
    assert [session["from_step"] for session in sessions] == [0, step]
    for name in ("last", "best"):
        ours, theirs = weights(tmp_path / "run", name), weights(trained[1], name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    for again, once in zip(measured(tmp_path / "run"), measured(trained[1]), strict=True):
        for key in ("step", "train_loss", "train_accuracy", "validation_loss", "test_accuracy"):
            assert again[key] == pytest.approx(once[key], rel=1e-12)


BAD = [
    pytest.param(["--recipe", "quick", "--epsilon", "1"], id="in-every-process", marks=pytest.mark.slow),
    pytest.param([*FLAGS, "--train-images", "1000000"], id="in-the-first"),
]


@pytest.mark.parametrize("flags", BAD)
def test_bad_input_is_said_once_and_leaves_nothing(tmp_path, flags):
    done = torchrun(tmp_path, "train", *flags, "--output", "run")
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.count("flatnext: error:") == 1, done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_end_is_clean_every_time(tmp_path):
    for number in range(10):
        done = torchrun(tmp_path, "train", *FLAGS, "--epochs", "1", "--output", f"run-{number}")
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_under_torchrun(tmp_path, name):
    done = torchrun(tmp_path, "train", *FLAGS, "--method", name, "--epochs", "1", "--output", "run")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_run_that_diverges_says_so_once(tmp_path):
    done = torchrun(tmp_path, "train", *FLAGS, "--lr", "1e30", "--warmup-epochs", "0", "--output", "run")
    assert done.returncode != 0
    assert done.stderr.count("flatnext: error:") == 1, done.stderr
    failure = json.loads((tmp_path / "run" / "failure.json").read_text())
    assert 0 <= failure["step"] < 8
