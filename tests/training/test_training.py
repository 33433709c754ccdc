"""Runs: what they leave, and that a run that was cut short ends as one that was not."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tiny import AtStep, tiny
from torch import nn

from flatnext import files
from flatnext.config import Optimizer, Schedule, recipe
from flatnext.errors import InputError
from flatnext.evaluation.evaluate import evaluate
from flatnext.training import RunFolder, Stopped, learning_rate, make_optimizer, train
from flatnext.training import checkpoint as checkpoint_module
from flatnext.training import run_folder as run_folder_module
from flatnext.training.judge import Judge

CONFIGS = [
    tiny(),
    tiny("quick-amp", ema=0.9),
    tiny("quick-amp", inner_iter=2, precision="bf16", clip_norm=1.0, cutout=4),
]


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / f"{name}.safetensors")


def measured(folder: Path) -> list[dict]:
    """Return the lines of metrics without the times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "seconds" not in k and k != "images_per_second"} for line in lines]


def assert_same_run(left: Path, right: Path) -> None:
    for name in ("last", "best"):
        a, b = weights(left, name), weights(right, name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert measured(left) == measured(right)
    results = [json.loads((folder / "result.json").read_text()) for folder in (left, right)]
    for key in ("last", "best", "mistakes"):
        assert results[0][key] == results[1][key]


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda c: c.recipe + c.precision)
def whole(request, tmp_path_factory):
    """Return a config and the folder of its run, never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(request.param, folder)
    return request.param, folder


def test_evaluation_every_few_epochs_and_after_the_last(tmp_path):
    train(tiny(epochs=5, evaluate_every=2), tmp_path)
    lines = measured(tmp_path)
    assert [line["epoch"] for line in lines if line["validation_accuracy"] is not None] == [2, 4, 5]
    assert [line["epoch"] for line in lines if line["test_loss"] is not None] == [2, 4, 5]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["best"]["epoch"] in (2, 4, 5)
    train(tiny(epochs=5), tmp_path / "each")
    each = measured(tmp_path / "each")
    assert [line["train_loss"] for line in lines] == [line["train_loss"] for line in each]  # it changes no weight


def test_a_run_leaves_its_folder(whole):
    config, folder = whole
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "result.json",
        "last.safetensors",
        "best.safetensors",
        "tensorboard",
        ".lock",
    }
    assert RunFolder(folder).config() == config
    lines = measured(folder)
    assert [line["epoch"] for line in lines] == [1, 2]
    assert [line["step"] for line in lines] == [4, 8]
    result = json.loads((folder / "result.json").read_text())
    assert result["last"]["epoch"] == 2
    assert result["last"]["test"]["accuracy"] == lines[-1]["test_accuracy"]
    assert result["last"]["validation"]["accuracy"] == lines[-1]["validation_accuracy"]
    best = max(lines, key=lambda line: (line["validation_accuracy"], -line["validation_loss"]))
    assert result["best"]["epoch"] == best["epoch"]
    assert result["best"]["test"]["accuracy"] == best["test_accuracy"]
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["train_images"] == 100
    assert environment["test_images"] == 360
    assert list((folder / "tensorboard").iterdir())


@pytest.mark.parametrize("number", [1, 3, 4, 5, 8])
def test_stopped_by_a_signal_and_resumed_ends_the_same(whole, tmp_path, number):
    config, folder = whole
    with pytest.raises(Stopped, match="--resume"):
        train(config, tmp_path / "run", progress=AtStep(number, lambda: os.kill(os.getpid(), signal.SIGINT)))
    rest = AtStep(0, None)
    train(config, tmp_path / "run", resume=True, progress=rest)
    assert rest.steps == 8 - number  # nothing is done twice
    assert_same_run(folder, tmp_path / "run")


class Killed(BaseException):
    """Stands for the end of the process."""


def kill_at_write(monkeypatch, number: int) -> None:
    """Let the process end in the middle of the write of this number, counted from 0."""
    count = -1

    def write(path, content):
        nonlocal count
        count += 1
        if count == number:
            path.with_name(f".{path.name}.tmp").write_bytes(b"half")
            raise Killed
        real(path, content)

    real = files.write_atomically
    for module in (files, checkpoint_module, run_folder_module):
        monkeypatch.setattr(module, "write_atomically", write)


WRITES = 2 + 2 * 4 + 1  # config, session; metrics, state, last and best of two epochs; result


def test_there_are_no_more_writes(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        kill_at_write(patch, WRITES)
        train(CONFIGS[1], tmp_path / "run")
    assert RunFolder(tmp_path / "run").finished()


@pytest.mark.parametrize("write", range(WRITES))
def test_killed_at_any_write_and_resumed_ends_the_same(tmp_path, write):
    config, folder, whole = CONFIGS[1], tmp_path / "run", tmp_path / "whole"
    with pytest.MonkeyPatch.context() as patch:
        kill_at_write(patch, write)
        with pytest.raises(Killed):
            train(config, folder)
    train(config, folder, resume=True)
    train(config, whole)
    assert_same_run(folder, whole)


def test_killed_between_checkpoints_goes_on_from_the_last_one(tmp_path):
    def die() -> None:
        raise Killed

    with pytest.raises(Killed):
        train(CONFIGS[0], tmp_path / "run", progress=AtStep(6, die))
    rest = AtStep(0, None)
    train(CONFIGS[0], tmp_path / "run", resume=True, progress=rest)
    assert rest.steps == 4
    train(CONFIGS[0], tmp_path / "whole")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_finished_run_is_returned_and_not_repeated(whole):
    config, folder = whole
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert train(config, folder, resume=True) == json.loads((folder / "result.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_run_folder_is_not_overwritten_unasked(whole, tmp_path):
    config, folder = whole
    with pytest.raises(InputError, match="--overwrite"):
        train(config, folder)
    with pytest.raises(InputError, match=r"optimizer\.learning_rate = 0\.02, not 0\.5"):
        train(config.override({"learning_rate": 0.5}), folder, resume=True)
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="not a run folder"):
        train(config, tmp_path, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_overwrite_deletes_nothing_that_is_not_a_runs(tmp_path):
    foreign = tmp_path / "project"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"name": "my project"}')
    with pytest.raises(InputError, match="not a run folder"):
        train(CONFIGS[0], foreign, overwrite=True)
    train(CONFIGS[0], tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("precious")
    train(CONFIGS[0], tmp_path / "run", overwrite=True)
    assert (tmp_path / "run" / "notes.txt").read_text() == "precious"


@pytest.mark.parametrize("options", [{"overwrite": True}, {"resume": True}], ids=str)
def test_the_files_of_a_run_under_way_are_left_alone(tmp_path, options):
    train(CONFIGS[0], tmp_path)
    (tmp_path / "result.json").unlink()  # it is not finished
    (tmp_path / ".last.safetensors.tmp").touch()  # and is writing a checkpoint
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    with RunFolder(tmp_path).locked(), pytest.raises(InputError, match="another process is running this"):
        train(CONFIGS[0], tmp_path, **options)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert {**after, tmp_path / ".lock": 0} == {**before, tmp_path / ".lock": 0}


def test_an_interrupted_overwrite_can_be_repeated(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    train(CONFIGS[0], folder)
    real, calls = Path.unlink, []

    def unlink(path, **options):
        calls.append(path)
        if len(calls) == 3:
            raise Killed
        real(path, **options)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(Killed):
        train(CONFIGS[0], folder, overwrite=True)
    monkeypatch.undo()
    train(CONFIGS[0], folder, overwrite=True)
    train(CONFIGS[0], tmp_path / "whole")
    assert_same_run(folder, tmp_path / "whole")


def test_a_signal_during_the_last_evaluation_is_not_lost(tmp_path, monkeypatch):
    real = Judge.validation
    monkeypatch.setattr(Judge, "validation", lambda judge: (os.kill(os.getpid(), signal.SIGINT), real(judge))[1])
    with pytest.raises(Stopped):
        train(tiny(epochs=1), tmp_path / "run")
    monkeypatch.undo()
    train(tiny(epochs=1), tmp_path / "run", resume=True)
    train(tiny(epochs=1), tmp_path / "whole")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_best_is_the_weights_that_its_score_is_of(tmp_path):
    config = tiny(epochs=4, learning_rate=0.05, warmup_epochs=0.0, schedule="constant", seed=2)
    result = train(config, tmp_path / "run")
    assert result["best"]["epoch"] < 4  # else the test shows nothing: choose another seed
    with safetensors.safe_open(tmp_path / "run" / "best.safetensors", "pt") as file:
        assert int(file.metadata()["step"]) == 4 * result["best"]["epoch"]
    for name in ("last", "best"):
        scores = evaluate(tmp_path / "run", checkpoint=name)
        assert scores["confusion"] == result[name]["test"]["confusion"]


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    def second():
        with pytest.raises(InputError, match="another process"):
            train(CONFIGS[0], tmp_path / "run", resume=True)

    train(CONFIGS[0], tmp_path / "run", progress=AtStep(2, second))


def test_a_restart_goes_on_with_its_own_run_alone(tmp_path, monkeypatch):
    def die():
        raise Killed

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    with pytest.raises(Killed):
        train(CONFIGS[0], tmp_path / "run", progress=AtStep(6, die))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another")
    with pytest.raises(InputError, match="holds a run"):
        train(CONFIGS[0], tmp_path / "run")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    rest = AtStep(0, None)
    train(CONFIGS[0], tmp_path / "run", overwrite=True, progress=rest)
    assert rest.steps == 4  # the restart of a launch that was told to overwrite does not begin anew


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state-000000004.pt", b"half"),
        ("state-000000004.pt", None),
        ("environment.json", b"[]"),
        ("environment.json", b"{}"),
        ("metrics.jsonl", b"\xff"),
        ("metrics.jsonl", b"{}\n"),
        ("last.safetensors", b"half"),
        ("config.json", b"{}"),
    ],
)
def test_a_damaged_folder_is_one_line(tmp_path, name, content):
    def die():
        raise Killed

    with pytest.raises(Killed):
        train(CONFIGS[0], tmp_path, progress=AtStep(6, die))
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        train(CONFIGS[0], tmp_path, resume=True)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overwrite_begins_anew(tmp_path):
    train(tiny(), tmp_path / "run")
    train(tiny("quick-amp", epochs=1), tmp_path / "run", overwrite=True)
    assert len(measured(tmp_path / "run")) == 1


def test_bad_input_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="parameter_budget"):
        train(tiny(parameter_budget=1000), tmp_path / "run")
    with pytest.raises(InputError, match="train_images"):
        train(tiny(train_images=10**6), tmp_path / "run")
    with pytest.raises(InputError, match="device"):
        train(tiny(), tmp_path / "run", device="abacus")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    config = tiny(learning_rate=1e30, warmup_epochs=0, epochs=3, schedule="steps", milestones=(1,), gamma=1e-3)
    with pytest.raises(InputError, match=r"not finite at step \d+ \(epoch \d\).*--lr"):
        train(config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "failure.json").read_text())["step"] < 12
    assert not (tmp_path / "run" / "result.json").exists()


def test_the_last_checkpoint_before_a_failure_is_finite(tmp_path):
    config = tiny(epochs=3)

    folder = tmp_path / "run"
    calls = []

    def fake(logits, labels, **options):
        calls.append(1)
        return real(logits, labels, **options) * (math.nan if len(calls) == 8 else 1.0)

    real = nn.functional.cross_entropy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.nn.functional.cross_entropy", fake)
        with pytest.raises(InputError, match=r"step 5 \(epoch 2\)"):
            train(config, folder)
    assert all(bool(torch.isfinite(value).all()) for value in weights(folder).values() if value.is_floating_point())
    train(config, folder, resume=True)
    assert not (folder / "failure.json").exists()
    train(config, tmp_path / "whole")
    assert_same_run(folder, tmp_path / "whole")


def test_a_full_disk_is_one_line_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    config, folder = tiny(), tmp_path / "run"

    def full(descriptor):
        if (folder / "last.safetensors").exists():
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*No space left"):
        train(config, folder)
    assert not list(folder.glob(".*.tmp"))
    assert weights(folder)
    monkeypatch.undo()
    train(config, folder, resume=True)
    train(config, tmp_path / "whole")
    assert_same_run(folder, tmp_path / "whole")


def test_the_weights_are_a_function_of_the_config_and_not_of_global_state(tmp_path):
    torch.manual_seed(123)
    train(tiny(), tmp_path / "a")
    torch.rand(7)
    state = torch.get_rng_state()
    train(tiny(), tmp_path / "b")
    assert torch.equal(state, torch.get_rng_state())
    assert_same_run(tmp_path / "a", tmp_path / "b")
    train(tiny(seed=1), tmp_path / "c")
    assert not torch.equal(weights(tmp_path / "a")["conv1.weight"], weights(tmp_path / "c")["conv1.weight"])


def test_no_validation_split_means_no_best(tmp_path):
    result = train(tiny(validation=0, test_curve=False), tmp_path / "run")
    assert result["best"] is None
    assert not (tmp_path / "run" / "best.safetensors").exists()
    assert measured(tmp_path / "run")[0]["test_accuracy"] is None


def test_learning_rates_equal_torch_schedulers():
    steps_per_epoch, epochs = 5, 12
    parameter = nn.Parameter(torch.zeros(1))

    def by_torch(make, every):
        optimizer = torch.optim.SGD([parameter], lr=0.1)
        scheduler = make(optimizer)
        rates = []
        for step in range(steps_per_epoch * epochs):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if (step + 1) % every == 0:
                scheduler.step()
        return rates

    cosine, steps = torch.optim.lr_scheduler.CosineAnnealingLR, torch.optim.lr_scheduler.MultiStepLR
    linear = torch.optim.lr_scheduler.LinearLR
    cases = [
        (Schedule(t_max=20, per_epoch=True), by_torch(lambda o: cosine(o, T_max=20), steps_per_epoch)),
        (Schedule(), by_torch(lambda o: cosine(o, T_max=60), 1)),
        (
            Schedule(schedule="steps", milestones=(4, 8), gamma=0.1),
            by_torch(lambda o: steps(o, [4, 8], 0.1), steps_per_epoch),
        ),
        (Schedule(schedule="constant"), [0.1] * 60),
        (Schedule(schedule="linear"), by_torch(lambda o: linear(o, 1.0, 0.0, 60), 1)),
        (Schedule(schedule="linear", per_epoch=True), by_torch(lambda o: linear(o, 1.0, 0.0, 12), steps_per_epoch)),
    ]
    for schedule, expected in cases:
        rates = [learning_rate(0.1, schedule, step, steps_per_epoch, epochs) for step in range(60)]
        assert rates == pytest.approx(expected, rel=1e-9)


def test_warm_up_is_linear_and_reaches_the_peak():
    schedule = Schedule(warmup_epochs=2.0)
    rates = [learning_rate(0.4, schedule, step, 5, 10) for step in range(50)]
    assert rates[:10] == pytest.approx([0.04 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(0.4)
    assert rates[30] == pytest.approx(0.2)
    assert 0 < rates[-1] < 0.001


def test_a_linear_schedule_with_a_warm_up_is_a_triangle():
    rates = [learning_rate(0.4, Schedule(schedule="linear", warmup_epochs=2.0), step, 5, 10) for step in range(50)]
    assert rates[:10] == pytest.approx([0.04 * (i + 1) for i in range(10)])
    assert rates[10:] == pytest.approx([0.01 * (40 - i) for i in range(40)])


def test_the_reports_rate_never_gets_below_half():
    config = recipe("report-amp")
    last = learning_rate(config.optimizer.learning_rate, config.schedule, 99 * 782, 782, config.epochs)
    assert 0.05 < last < 0.0508


def test_batch_norm_and_biases_are_not_decayed_unless_asked():
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    groups = make_optimizer(model, Optimizer()).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(2, 5e-4), (3, 0.0)]
    groups = make_optimizer(model, Optimizer(decay_all=True)).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(5, 5e-4)]
