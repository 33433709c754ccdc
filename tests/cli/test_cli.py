"""The command: its conventions, and that bad input is one line and exit status 2."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from tiny import TINY

from flatnext import cli
from flatnext.cli import train
from flatnext.models import resnext29
from flatnext.versions import version_of

FLAGS = [
    *("--epochs", "1", "--batch-size", "32", "--train-images", "100", "--validation", "40", "--blocks", "1,1"),
    *("--cardinality", "2", "--stem", "8", "--lr", "0.02", "--precision", "fp32"),
]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return a function that runs the command in an empty folder and gives its status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as error:
            status = error.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "command", ["", "study", "train", "evaluate", "evidence", "report", "bench", "summary", "weights", "pack", "data"]
)
def test_help_comes_without_torch(command):
    code = (
        f"import sys; sys.argv = ['flatnext', *{command.split()!r}, '--help']\n"
        "from flatnext.cli import main\n"
        "try: main()\n"
        "except SystemExit as e: assert e.code == 0\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    began = time.monotonic()
    assert "usage: flatnext" in python(code)
    assert time.monotonic() - began < 10  # 0.1 s where nothing else runs


def test_module_and_version():
    done = subprocess.run([sys.executable, "-m", "flatnext", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("flatnext 0.")


def test_train_evaluate_and_use_the_config_again(run, tmp_path):
    status, out, err = run("train", "--recipe", "quick-amp", *FLAGS)
    assert status == 0, err
    folder = tmp_path / "runs" / "quick-amp-seed-0"
    assert out.splitlines()[-1] == "runs/quick-amp-seed-0"
    config = json.loads((folder / "config.json").read_text())
    assert config["method"]["name"] == "amp"
    assert config["optimizer"]["learning_rate"] == TINY["learning_rate"]
    status, out, _ = run("evaluate", folder, "--json")
    assert status == 0
    scores = json.loads(out)
    assert scores["confusion"] == json.loads((folder / "result.json").read_text())["last"]["test"]["confusion"]
    assert run("evaluate", folder / "best.safetensors", "--split", "validation")[0] == 0
    status, out, err = run("train", "--config", folder / "config.json", "--seed", 1, "--output", "again")
    assert status == 0, err
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == {**config, "seed": 1}
    assert run("train", "--resume", "again")[0] == 0


def test_study_and_report(run, tmp_path):
    status, out, err = run("study", "--dataset", "digits", "--seeds", 2, *FLAGS)
    assert status == 0, err
    report = tmp_path / "studies" / "digits" / "report.md"
    assert out.splitlines()[-2:] == ["studies/digits/report.html", "studies/digits/report.md"]
    assert "quick-amp" in out.splitlines()[0]
    assert "flatnext study --dataset digits --seeds 2" in report.read_text()
    before = report.read_text()
    (report.parent / "quick" / "seed-1" / "result.json").unlink()
    assert run("report", report.parent)[0] == 0
    assert report.read_text() != before


def test_a_run_knows_where_its_data_lay(run, tmp_path):
    for name, shade in (("dark", 20), ("light", 220)):
        for number in range(20):
            file = tmp_path / "pictures" / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (shade, shade, shade + number)).save(file)
    flags = [*FLAGS, "--train-images", 20, "--validation", 8, "--batch-size", 10, "--flip", "none"]
    data = ["--dataset", "folder", "--image-size", 8]
    status, _, err = run("train", "--recipe", "quick", *flags, *data, "--data-dir", "pictures", "--output", "r")
    assert status == 0, err
    assert run("evaluate", "r")[0] == 0
    assert run("evaluate", "r/best.safetensors")[0] == 0
    status, _, err = run("evaluate", "r", "--data-dir", "elsewhere")
    assert status == 2
    assert "elsewhere" in err


def test_a_study_of_models(run, tmp_path):
    flags = [*FLAGS[: FLAGS.index("--blocks")], "--precision", "fp32", "--lr", "0.02"]
    models = ["--models", "resnext11", "resnext20"]
    status, out, err = run("study", "--recipes", "quick", *models, "--seeds", 1, *flags)
    assert status == 0, err
    found = {
        name: json.loads((tmp_path / f"studies/digits/quick-{name}/seed-0/config.json").read_text())
        for name in ("resnext11", "resnext20")
    }
    assert found["resnext20"]["model"]["blocks"] == [2, 2, 2]
    assert {**found["resnext11"], "model": 0, "recipe": 0} == {**found["resnext20"], "model": 0, "recipe": 0}
    assert "quick-resnext11" in out
    assert run("study", "--recipes", "quick", *models, "--stem", 3)[0] == 2
    assert run("study", "--recipes", "quick", "--models", "resnet31")[0] == 2


def test_a_failed_run_is_status_1(run):
    flags = [flag if flag != "0.02" else "1e30" for flag in FLAGS]
    status, _, err = run("study", "--recipes", "quick", "--seeds", 1, *flags)
    assert status == 1
    assert "not finite" in err


def test_the_reports_checkpoint_is_evaluated(run, tmp_path):
    torch.manual_seed(0)
    torch.save({"model": resnext29().state_dict(), "acc": 10.0, "epoch": 3}, tmp_path / "ckpt.pth")
    flags = ["--dataset", "digits", "--validation", "0"]
    status, out, err = run("evaluate", "ckpt.pth", *flags, "--json")
    assert status == 0, err
    assert json.loads(out)["count"] == 360


def test_summary_is_the_reports_figure_2(run):
    status, out, _ = run("summary")
    assert status == 0
    for line in ("Total params: 4,761,770", "size (MB): 64.50", "Params size (MB): 18.16", "Total Size (MB): 82.68"):
        assert line in out
    assert "25.56 x 10^6" in run("summary", "--table1")[1]
    assert "4,761,770" not in run("summary", "--model", "resnext11")[1]


def test_data_shows_the_digits(run, tmp_path):
    status, out, err = run("data", "--dataset", "digits", "--samples", "samples.png")
    assert status == 0, err
    assert "1,437" in out
    assert "360" in out
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")


BAD = [
    (["train", "--recipe", "best-ever"], "best-ever"),
    (["study", "--recipes", "best-ever"], "unknown recipe 'best-ever'"),
    (["train", "--method", "amp", "--epsilon", "-1"], "epsilon is -1.0"),
    (["train", "--epsilon", "0.1"], "method sgd has no setting 'epsilon'"),
    (["train", "--epochs", "many"], "'many' is not N"),
    (["train", "--epoch", "3"], "--epoch"),
    (["study", "--seed", "3"], "--seed"),
    (["study", "--seeds", "0", "--dataset", "digits"], "seeds is 0"),
    (["train", "--recipe", "quick", "--stem", "4000", "--blocks", "9,9,9"], "parameter_budget"),
    (["train", "--recipe", "quick", "--device", "abacus"], "abacus"),
    (["train", "--no-download", "--data-dir", "nowhere"], "nowhere"),
    (["train", "--no-download", "--data-dir", "nowhere", "--device", "abacus"], "abacus"),
    (["study", "--no-download", "--data-dir", "nowhere", "--device", "abacus"], "abacus"),
    (["train", "--resume", "nowhere"], "nowhere/config.json"),
    (["train", "--resume", "nowhere", "--lr", "1"], "--resume"),
    (["train", "--config", "broken.json"], "broken.json"),
    (["train", "--config", "other.json"], "'epoch'"),
    (["train", "--recipe", "quick", *FLAGS, "--output", "broken.json/run"], "broken.json/run"),
    (["evaluate", "nowhere"], "nowhere"),
    (["evaluate", "broken.json"], "broken.json"),
    (["evaluate", "."], "last.safetensors"),
    (["evaluate", "broken.json", "--checkpoint", "best"], "checkpoint is 'best'"),
    (["pack", "nowhere", "--name", "a-digits-b"], "nowhere is not a run folder"),
    (["report", "nowhere"], "nowhere"),
    (["data", "--dataset", "folder", "--data-dir", "nowhere"], "nowhere"),
    (["summary", "--image-size", "30"], "30"),
    (["train", "--recipe", "quick", "--blocks", "1,1,1,1,1", "--cardinality", "2"], "image size is 8x8"),
    (["train", "--recipe", "quick", "--image-size", "4", "--batch-size", "431"], "batch norm needs two"),
    (
        ["train", "--recipe", "quick", "--block", "sk", "--blocks", "1,1", "--batch-size", "431"],
        "batch norm needs two in block sk",
    ),
    (["train", "--method", "momentum-amp", "--momentum", "0", "--no-nesterov"], "momentum-amp needs momentum above 0"),
    (["train", "--recipe", "quick", "--crop-padding", "1000000"], "crop_padding is 1000000"),
    (["train", "--recipe", "sgd", "--dataset", "digits"], "cutout is 16: give at most 8 for 8-pixel images"),
    (["train", "--recipe", "quick", "--device", "meta"], "meta"),
    (["train", "--recipe", "quick", "--seed", str(2**64)], "seed"),
    (["train", "--grad-accum-steps", "1000"], "grad_accum_steps is 1000"),
    (["study", "--recipes", "quick", "sgd"], "dataset"),
    (["study", "--dataset", "folder", "--data-dir", "nowhere"], "nowhere"),
    (["study", "--method", "amp"], "--method"),
    (["data", "--dataset", "digits", "--train-images", "5"], "--train-images"),
    (["evaluate", "nowhere", "--cutout", "4"], "--cutout"),
    (["evaluate", "nowhere", "--augment", "trivial"], "--augment"),
    (["data", "--dataset", "digits", "--mixup", "0.2"], "--mixup"),
    (["train", "--recipe", "quick", "--early-sizes", "6"], "early_sizes has 6"),
    (["train", "--recipe", "cpu", "--epochs", "10"], "epochs: there are 10 in all"),
    (["summary", "--table1", "--stem", "64"], "--table1"),
    ([], "COMMAND"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_status_2(run, tmp_path, arguments, message):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text('{"epoch": 3}')
    before = sorted(tmp_path.rglob("*"))
    status, out, err = run(*arguments)
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1, err
    assert message in err
    assert sorted(tmp_path.rglob("*")) == before


def test_ctrl_c_writes_a_checkpoint_and_says_how_to_go_on(tmp_path):
    code = (
        "import os, pathlib, signal, sys, threading, time\n"
        "def interrupt():\n"
        "    while not pathlib.Path(sys.argv[1], 'last.safetensors').exists(): time.sleep(0.05)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=interrupt, daemon=True).start()\n"
        "from flatnext.cli import main\n"
        f"sys.exit(main(['train', '--recipe', 'quick', *{FLAGS!r}, '--epochs', '500', '--output', sys.argv[1]]))"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "run")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].endswith(f"go on with: flatnext train --resume {tmp_path / 'run'}")
    assert list((tmp_path / "run").glob("state-*.pt"))


def test_what_users_of_other_libraries_try_gets_a_hint(capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["train", "--amp"])
    assert error.value.code == 2
    assert "--method amp; mixed precision is --precision bf16" in capsys.readouterr().err


def test_the_digits_have_recipes_of_their_own():
    for arguments, name in (([], "sgd"), (["--dataset", "digits"], "quick"), (["--dataset", "cifar100"], "sgd")):
        options = cli.make_parser().parse_args(["train", *arguments])
        config, folder = train.config_and_folder(options)
        assert config.recipe == name
        assert folder.name == f"{name}-seed-0"


def test_a_version_of_what_is_not_installed():
    assert version_of("no-such-package") == "not installed"
    assert version_of("numpy")[0].isdigit()
