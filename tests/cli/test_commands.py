"""The command line as a whole: its commands, help, errors and hints."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fake_study import write_study
from tiny import TINY_FLAGS

from flatnext import cli
from flatnext.config import MODELS, RECIPES, RENAMED
from flatnext.errors import warn_of_fallback
from flatnext.versions import commit, version_of


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_is_a_module_with_its_flags_beside_what_it_does(name):
    command = cli.COMMANDS[name]
    assert command.__name__ == f"flatnext.cli.{name}"
    assert command.HELP
    assert callable(command.add_arguments)
    assert callable(command.run)


@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"usage: flatnext {command}" in done.stdout
    assert time.monotonic() - began < 10  # 0.1 s where nothing else runs


def test_the_help_names_every_command(run):
    status, out, _ = run("--help")
    assert status == 0
    assert all(f"    {name} " in out for name in cli.COMMANDS)


def test_module_and_version():
    done = subprocess.run([sys.executable, "-m", "flatnext", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("flatnext 0.")


def test_a_version_of_what_is_not_installed():
    assert version_of("no-such-package") == "not installed"
    assert version_of("numpy")[0].isdigit()


def test_the_commit_of_a_clone_and_of_none(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    folder = clone / "inside"  # of a clone, but not one: the package of a virtual environment
    folder.mkdir(parents=True)
    git = ["git", "-C", str(clone), "-c", "user.name=a", "-c", "user.email=b"]
    assert commit(clone) is None
    subprocess.run([*git, "init", "-q"], check=True)
    assert commit(clone) is None  # it has no commit yet
    (clone / "file").write_text("1")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-qm", "c"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert commit(clone) == head[:12]
    (clone / "file").write_text("2")
    assert commit(clone) == f"{head[:12]}-dirty"
    assert commit(folder) is None


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["train", "--amp"], "--method amp; mixed precision is --precision bf16"),
        (["train", "--learning-rate=0.1"], "did you mean --lr?"),
        (["train", "--batch", "4"], "did you mean --batch-size?"),
        (["train", "--batch_size=4"], "did you mean --batch-size?"),
        (["train", "--gpu"], "did you mean --device cuda?"),
        (["train", "--epoch", "3"], "did you mean --epochs?"),
        (["train", "--data", "pictures"], "did you mean --data-dir (the folder) or --dataset (its name)?"),
        (["train", "--optimizer", "adam"], "did you mean adamw"),
        (["train", "--opt", "adamw"], "--optimizer"),
        (["train", "--recipe", "quikc"], "did you mean quick?"),
        (["train", "--recipe", "quick+AMP"], "did you mean quick"),
        (["train", "--model", "resnet29"], "did you mean resnext29?"),
        (["train", "--method", "AMP"], "did you mean amp?"),
        (["train", "quick"], "did you mean --recipe quick?"),
        (["train", "resnet30"], "did you mean --model resnet30?"),
        (["study", "--recipes", "sgd", "apm"], "did you mean amp?"),
        (["study", "--method", "amp"], "did you mean --recipes sgd amp"),
        (["study", "--seed", "3"], "did you mean --seeds or --first-seed?"),
        (["trian"], "did you mean train?"),
        (["train", "--seed", "1", "--num-workers", "4"], "leave it out"),
        (["evaluate", "runs/x", "--images", "50"], "it is a flag of flatnext evidence"),
        (["train", "--no-graph"], "it is now called --no-cuda-graph"),
        (["train", "--per-rank"], "it is now called --m-sharpness"),
        *((["train", f"--{old}", "2"], new.replace("_", "-")) for old, new in RENAMED.items() if "_" not in old),
    ],
)
def test_flags_by_other_names_get_a_hint(run, arguments, hint):
    status, out, err = run(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert hint in err
    prog = "flatnext" if arguments == ["trian"] else f"flatnext {arguments[0]}"
    assert err.startswith(f"{prog}: error: ")
    assert err.endswith(f"(see {prog} --help)\n")


@pytest.mark.parametrize(("command", "names"), [("recipes", RECIPES), ("models", MODELS)])
def test_what_can_be_named_is_listed_with_a_line_each(run, command, names):
    status, out, _ = run(command)
    lines = out.splitlines()[: len(names)]
    assert status == 0
    assert [line.split()[0] for line in lines] == list(names)
    assert all(len(line.split()) > 2 for line in lines)


def test_weights_lists_what_ships(run):
    assert run("weights")[0] == 0


def test_summary_of_the_baseline_papers_model(run):
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


def test_a_picture_of_samples_replaces_no_other(run, tmp_path):
    (tmp_path / "keep.png").write_text("mine")
    command = ("data", "--dataset", "digits", "--samples")
    status, out, err = run(*command, "keep.png")
    assert (status, out) == (2, "")
    assert "keep.png exists: give another name, or --overwrite" in err
    assert (tmp_path / "keep.png").read_text() == "mine"
    assert run(*command, "keep.png", "--overwrite")[0] == run(*command, "new/samples.png")[0] == 0
    assert (tmp_path / "new" / "samples.png").is_file()


BAD = [
    (["train", "--recipe", "best-ever"], "best-ever"),
    (["study", "--recipes", "best-ever"], "unknown recipe 'best-ever'"),
    (["train", "--method", "amp", "--epsilon", "-1"], "epsilon is -1.0"),
    (["train", "--epsilon", "0.1"], "method sgd has no setting 'epsilon'"),
    (["train", "--epochs", "many"], "'many' is not a whole number"),
    (["train", "--epoch", "3"], "--epoch"),
    (["study", "--seed", "3"], "--seed"),
    (["study", "--seeds", "0", "--dataset", "digits"], "seeds is 0"),
    (["train", "--recipe", "quick", "--model", "resnext29", "--stem", "4000", "--blocks", "9,9,9"], "parameter_budget"),
    (["train", "--recipe", "quick", "--device", "abacus"], "abacus"),
    (["train", "--no-download", "--data-dir", "nowhere", "--dataset", "cifar10"], "nowhere holds no cifar-10"),
    (["train", "--no-download", "--data-dir", "nowhere", "--dataset", "cifar10", "--device", "abacus"], "abacus"),
    (["study", "--no-download", "--data-dir", "nowhere", "--dataset", "cifar10", "--device", "abacus"], "abacus"),
    (["train", "--resume", "nowhere"], "nowhere does not exist: give the folder of a run"),
    (["train", "--resume", "nowhere", "--lr", "1"], "nowhere"),
    (["train", "--config", "broken.json"], "broken.json"),
    (["train", "--config", "other.json"], "'epoch'"),
    (["train", "--recipe", "quick", *TINY_FLAGS, "--output", "broken.json/run"], "broken.json/run"),
    (["evaluate", "nowhere"], "nowhere"),
    (["evaluate", "broken.json"], "broken.json"),
    (["evaluate", "."], ". holds no run"),
    (["evaluate", "broken.json", "--checkpoint", "best"], "checkpoint is 'best'"),
    (["pack", "nowhere", "--name", "a-digits-b"], "nowhere does not exist: give the folder of a run"),
    (["report", "nowhere"], "nowhere"),
    (["data", "--dataset", "folder", "--data-dir", "nowhere"], "nowhere"),
    (["summary", "--image-size", "30"], "30"),
    (["train", "--recipe", "quick", "--blocks", "1,1,1,1,1", "--cardinality", "2"], "image size is 8x8"),
    (["train", "--recipe", "quick", "--image-size", "4", "--batch-size", "431"], "batch norm needs two"),
    (
        ["train", "--recipe", "quick", "--block", "sk", "--blocks", "1,1", "--batch-size", "431"],
        "batch norm needs two in block sk",
    ),
    (
        [
            "train",
            "--recipe",
            "quick",
            "--block",
            "sk",
            "--blocks",
            "1,1",
            "--batch-size",
            "4",
            "--grad-accum-steps",
            "4",
        ],
        "grad_accum_steps is 4: a batch of 4 leaves 1 image to a pass",
    ),
    (
        ["train", "--schedule", "steps", "--milestones", "2,4", "--gamma", "0.1", "--warmup-epochs", "5"],
        "milestones begin at 2: the rate is warmed up until epoch 5",
    ),
    (
        ["train", "--weights", "some.safetensors", "--freeze", "all-but-head", "--backbone-lr-factor", "0.1"],
        "backbone_lr_factor is 0.1: with freeze all-but-head no layer before the head is trained",
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


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
            True,
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("required rank 4 tensor to use channels_last memory format"), False),
    ],
    ids=repr,
)
def test_only_a_lack_of_memory_is_one(monkeypatch, run, error, told):
    def fail(*_):
        raise error

    monkeypatch.setattr("flatnext.cli.recipes.run", fail)
    if told:
        status, _, err = run("recipes")
        assert (status, "out of memory: lower --batch-size" in err) == (2, True)
    else:
        with pytest.raises(RuntimeError, match="memory"):
            run("recipes")


def test_a_fallback_is_a_line_of_standard_error(monkeypatch, capsys):
    monkeypatch.setattr(cli.weights, "run", lambda options: warn_of_fallback("it is slower") or 0)
    assert cli.main(["weights"]) == 0
    assert capsys.readouterr().err == "flatnext: warning: it is slower\n"


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "ascii"])
def test_an_output_that_is_not_utf_8_ends_no_command(encoding, tmp_path):
    folder = write_study(tmp_path, ("rmp", "sam"), range(3), epochs=2)
    command = [sys.executable, "-m", "flatnext", "report", str(folder)]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    made = subprocess.run(command, check=False, env=environment, capture_output=True, timeout=120)
    assert (made.returncode, made.stderr) == (0, b"")
    assert rb"sam \u2212 rmp is" in made.stdout


def test_only_what_runs_in_several_processes_is_silent_in_the_others(run, monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}.items():
        monkeypatch.setenv(name, value)
    assert "nowhere.onnx" in run("predict", "nowhere.onnx", "x.png")[2]
    assert run("train", "--recip", "sgd")[2] == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "x" * 300], "unrecognized arguments"),
        (["summary", "--image-size", "10000000000"], "image_size is 10000000000"),
        (["summary", "--table1", "--classes", "7"], "leave the settings of a model out"),
        (["export", "resnext29-cifar10", "--to", "onnx", "--private"], "private is for --push"),
        (["bench", "--method", "amp"], "did you mean --methods?"),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_line(run, arguments, words):
    status, _, err = run(*arguments)
    assert status == 2
    assert words in err
    assert err.count("\n") == 1


def test_a_percent_sign_in_a_file_name_is_one_in_the_help(run, tmp_path):
    (tmp_path / "a%b.json").write_text('{"recipe": "quick", "epochs": 3}')
    status, out, _ = run("study", "--recipes", "a%b.json", "--help")
    assert status == 0
    assert "(a%b.json: 3)" in out
