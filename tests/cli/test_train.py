"""`flatnext train`, and `flatnext evaluate` on what it leaves."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny import TINY, TINY_FLAGS

import flatnext
from flatnext import cli
from flatnext.cli.train import config_and_folder
from flatnext.config import recipe


def paint(folder):
    """Make a folder of 20 dark and 20 light images."""
    for name, shade in (("dark", 20), ("light", 220)):
        for number in range(20):
            file = folder / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (shade, shade, shade + number)).save(file)


def test_train_evaluate_and_use_the_config_again(run, tmp_path):
    status, out, err = run("train", "--recipe", "quick-amp", *TINY_FLAGS)
    assert status == 0, err
    output = out.splitlines()[-1]
    assert re.fullmatch(r"runs/digits-resnext-quick-amp-[0-9a-f]{8}-seed-0", output)  # a digest of the many settings
    assert "quick-amp seed 0: not as in the recipe: " in err
    folder = tmp_path / output
    assert json.loads((folder / "environment.json").read_text())["not_of_recipe"]["blocks"] == [1, 1]
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
    status, out, err = run("train", "--resume", "again")
    assert (status, "last (epoch 1)" in out) == (0, True)
    assert err == "again finished before (1 epoch): give --epochs N to make it longer\n"


def test_a_run_knows_where_its_data_lay(run, tmp_path):
    paint(tmp_path / "pictures")
    flags = [*TINY_FLAGS, "--train-images", 20, "--validation", 8, "--batch-size", 10, "--flip", "none"]
    data = ["--dataset", "folder", "--image-size", 8]
    status, _, err = run("train", "--recipe", "quick", *flags, *data, "--data-dir", "pictures", "--output", "r")
    assert status == 0, err
    assert run("evaluate", "r")[0] == 0
    assert run("evaluate", "r/best.safetensors")[0] == 0
    status, _, err = run("evaluate", "r", "--data-dir", "elsewhere")
    assert status == 2
    assert "elsewhere" in err


def test_ctrl_c_writes_a_checkpoint_and_says_how_to_go_on(tmp_path):
    code = (
        "import os, pathlib, signal, sys, threading, time\n"
        "def interrupt():\n"
        "    while not pathlib.Path(sys.argv[1], 'last.safetensors').exists(): time.sleep(0.05)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=interrupt, daemon=True).start()\n"
        "from flatnext.cli import main\n"
        f"sys.exit(main(['train', '--recipe', 'quick', *{TINY_FLAGS!r}, '--epochs', '500', '--output', sys.argv[1]]))"
    )
    folder = tmp_path / "erste läufe" / "a run"
    arguments = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].endswith(f"go on with: flatnext train --resume {shlex.quote(str(folder))}")
    assert list(folder.glob("state-*.pt"))


def planned(*arguments):
    """Return the config and the folder of a `flatnext train` with these arguments."""
    return config_and_folder(cli.make_parser().parse_args(["train", *map(str, arguments)]))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], "cifar10-resnext29-sgd-seed-0"),
        (["--dataset", "digits", "--seed", "3"], "digits-resnext11-quick-seed-3"),
        (["--dataset", "cifar100"], "cifar100-resnext29-sgd-seed-0"),
        (["--recipe", "amp", "--model", "resnet30"], "cifar10-resnet30-amp-seed-0"),
        (["--method", "sam"], "cifar10-resnext29-sgd+sam-seed-0"),
        (["--recipe", "quick+sam"], "digits-resnext11-quick+sam-seed-0"),
        (["--recipe", "amp", "--epsilon", "0.1"], "cifar10-resnext29-amp-epsilon-0.1-seed-0"),
        (["--dataset", "folder", "--data-dir", "My Pictures"], "My-Pictures-resnext29-sgd-seed-0"),
    ],
)
def test_the_default_folder_says_what_the_run_is(arguments, name):
    assert planned(*arguments)[1] == Path("runs") / name


def test_a_config_file_starts_from_the_recipe_that_it_names(tmp_path, run):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"recipe": "amp", "epochs": 1, "data": {"dataset": "folder"}}))
    (tmp_path / "pets").mkdir()
    config, folder = planned("--config", file, "--data-dir", "pets")
    assert config == recipe("amp").override({"epochs": 1, "dataset": "folder"})
    assert folder.name == "pets-resnext29-amp-epochs-1-seed-0"
    file.write_text(json.dumps({"recipe": "quikc", "epochs": 1}))
    status, _, err = run("train", "--config", file)
    assert (status, err.count("\n")) == (2, 1)
    assert "mine.json: unknown recipe 'quikc': did you mean quick?" in err


def test_a_config_of_another_run_remembers_its_data_folder(run, tmp_path):
    paint(tmp_path / "my pictures")
    flags = [*TINY_FLAGS, "--train-images", 20, "--validation", 8, "--batch-size", 10, "--flip", "none"]
    data = ["--dataset", "folder", "--image-size", 8, "--data-dir", "my pictures"]
    status, _, err = run("train", "--recipe", "quick", *flags, *data, "--output", "first run")
    assert status == 0, err
    status, _, err = run("train", "--config", "first run/config.json", "--seed", 1, "--output", "second")
    assert status == 0, err
    known = [
        json.loads((tmp_path / name / "environment.json").read_text())["data_dir"] for name in ("first run", "second")
    ]
    assert known == [str(tmp_path / "my pictures")] * 2
    assert flatnext.evaluate("first run")["count"] > 0  # from Python too
    status, _, err = run("train", "--config", "first run/config.json", "--dataset", "cifar10", "--no-download")
    assert status == 2
    assert ".data holds no" in err  # another data set does not lie there


def test_a_folder_that_holds_a_run_hides_no_other_error(run, tmp_path):
    flags = ["--recipe", "quick", *TINY_FLAGS, "--output", "a run"]
    assert run("train", *flags)[0] == 0
    assert "a run holds a finished run" in run("train", *flags)[2]
    message = run("train", *flags, "--epochs", "3")[2]
    assert "or overwrite it (--overwrite, in Python overwrite=True); to train the added epochs with a" in message
    command = shlex.split(message.rpartition(": flatnext ")[2])
    assert command == ["train", "--resume", "a run", "--epochs", "3", "--schedule", "cosine", "--lr", "0.004"]
    assert run(*command)[0] == 0
    status, _, err = run("train", "--config", "a run/config.json", "--seed", 1, "--output", "new")
    assert status == 0
    assert "is of a run that was made longer after 1 epoch: here its last schedule is for all 3 epochs" in err
    assert "to make it longer" not in run("train", *flags, "--epochs", "3", "--momentum", "0.5")[2]
    assert "nowhere is not a folder" in run("train", *flags, "--dataset", "folder", "--data-dir", "nowhere")[2]
    assert "abacus" in run("train", *flags, "--device", "abacus")[2]
    (tmp_path / "a run" / "result.json").unlink()
    assert "flatnext train --resume 'a run'" in run("train", *flags)[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "a run/config.json"], "a run/config.json is a file of a run: give the run, a run"),
        (["--resume", "a run", "--lr", "3"], "leave settings, --output and --overwrite out; --epochs N makes the run"),
    ],
)
def test_what_resume_does_not_take_is_answered_with_what_does(run, tmp_path, arguments, message):
    (tmp_path / "a run").mkdir()
    (tmp_path / "a run" / "config.json").write_text(json.dumps(recipe("quick").to_json()))
    status, _, err = run("train", *arguments)
    assert (status, err.count("\n")) == (2, 1)
    assert message in err


@pytest.mark.parametrize(
    ("command", "flags"),
    [("train", ["--recipe", "sgd"]), ("study", ["--recipes", "sgd", "amp"])],
    ids=["train", "study"],
)
def test_recipes_that_do_not_fit_the_data_are_answered_with_those_that_do(run, tmp_path, command, flags):
    status, _, err = run(command, *flags, "--dataset", "digits")
    assert (status, err.count("\n")) == (2, 1)
    assert "cutout is 16: give at most 8 for 8-pixel images, or take a recipe for digits: quick, quick-amp" in err
    assert not list(tmp_path.iterdir())


def test_launcher_variables_of_somebody_else_are_named_and_ignored(run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    status, out, err = run("train", "--recipe", "quick", *TINY_FLAGS)
    assert status == 0, err
    assert "test accuracy" in out
    assert "RANK=3 WORLD_SIZE=4 in the environment ignored (MASTER_ADDR, MASTER_PORT not set)" in err
    assert "nowhere" in run("data", "--dataset", "folder", "--data-dir", "nowhere")[2]
