"""`flatnext train`, and `flatnext evaluate` on what it leaves."""

from __future__ import annotations

import json
import subprocess
import sys

from PIL import Image
from tiny import TINY, TINY_FLAGS

from flatnext import cli
from flatnext.cli.train import config_and_folder


def test_train_evaluate_and_use_the_config_again(run, tmp_path):
    status, out, err = run("train", "--recipe", "quick-amp", *TINY_FLAGS)
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


def test_a_run_knows_where_its_data_lay(run, tmp_path):
    for name, shade in (("dark", 20), ("light", 220)):
        for number in range(20):
            file = tmp_path / "pictures" / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (shade, shade, shade + number)).save(file)
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
    arguments = [sys.executable, "-c", code, str(tmp_path / "run")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].endswith(f"go on with: flatnext train --resume {tmp_path / 'run'}")
    assert list((tmp_path / "run").glob("state-*.pt"))


def test_the_digits_have_recipes_of_their_own():
    for arguments, name in (([], "sgd"), (["--dataset", "digits"], "quick"), (["--dataset", "cifar100"], "sgd")):
        options = cli.make_parser().parse_args(["train", *arguments])
        config, folder = config_and_folder(options)
        assert config.recipe == name
        assert folder.name == f"{name}-seed-0"
