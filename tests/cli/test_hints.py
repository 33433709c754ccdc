"""What people type who know other libraries is answered with what it is called here."""

import json

import pytest

from flatnext.cli import hints
from flatnext.cli.main import COMMANDS, make_parser
from flatnext.config import recipe

TYPED = [
    (["train", "pets"], "did you mean --data-dir pets?"),
    (["study", "pets"], "did you mean --data-dir pets?"),
    (["train", "a run"], "did you mean --resume 'a run'?"),
    (["study", "a run"], "did you mean --data-dir 'a run'?"),
    (["train", "mine.yaml"], "did you mean --config mine.yaml?"),
    (["train", "w.pth"], "did you mean --weights w.pth?"),
    (["train", "data=pets", "epochs=3"], "did you mean --data-dir (the folder) or --dataset (its name)?"),
    (["train", "epochs=3"], "did you mean --epochs VALUE?"),
    (["train", "--dataset", "pets"], "for the pictures in the folder pets, give --data-dir pets instead"),
    (["train", "--imgsz", "64"], "did you mean --image-size?"),
    (["train", "--workers", "8"], "leave it out: the data are kept on the device"),
    (["train", "--pretrained"], "did you mean --weights resnext29-cifar10 (or another: flatnext weights)?"),
    (["train", "--weights", "resnet18"], "resnet18 does not exist: give a run folder, a weights file, or a name"),
    (["train", "--dataset", "digits", "--device", "0"], "device '0' cannot be used (did you mean cuda:0?)"),
    (["train", "--dataset", "digits", "--device", "gpu"], "device 'gpu' cannot be used (did you mean cuda?)"),
    (
        ["train", "--dataset", "digits", "--device", "0,1"],
        "several GPUs: torchrun --nproc-per-node N",
    ),
    (["train", "--batch", "-1"], "did you mean --batch-size?"),
    (["train", "--dataset", "digits", "--batch-size", "-1"], "batch_size is -1: give at least 1"),
    (["train", "--patience", "3"], "leave it out: all epochs are trained"),
    (["train", "--nc", "3"], "leave it out: the classes are those of the data set"),
    (["train", "--lr", "auto"], "'auto' is not a number"),
    (["train", "--early-sizes", "a"], "'a' is not whole numbers with commas between"),
    (["train", "--resume"], "expected one argument: --resume DIR"),
    (["train", "--loss", "focal"], "unrecognized arguments: --loss focal (see flatnext train --help)"),
    (["study", "sgd", "amp"], "did you mean --recipes sgd amp?"),
    (["predict", "pets/1.png"], "required: PICTURE: flatnext predict MODEL FILE|FOLDER|GLOB|- ... [options]"),
    (["predict", "m", "--source", "x"], "give the pictures after the model: flatnext predict MODEL PICTURES"),
    (["export", "m", "--format", "onnx"], "required: --to: flatnext export WEIGHTS --to FORM [options]"),
    (["val"], "'val' is unknown: did you mean evaluate?"),
    (["classify"], "did you mean predict?"),
    (["fit"], "did you mean train?"),
    (["help"], "did you mean --help?"),
    (["quantize"], "did you mean export --to onnx-int8?"),
    (["tarin"], "did you mean train?"),
]


@pytest.mark.parametrize(("typed", "message"), TYPED, ids=[" ".join(typed) for typed, _ in TYPED])
def test_what_was_meant_is_said(run, tmp_path, typed, message):
    for name in ("pets", "a run"):
        (tmp_path / name).mkdir()
    (tmp_path / "a run" / "config.json").write_text(json.dumps(recipe("quick").to_json()))
    for name in ("mine.yaml", "w.pth"):
        (tmp_path / name).touch()
    status, out, err = run(*typed)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_what_is_advised_exists():
    """Every flag that is named is one of some command, and every command that is named is there."""
    commands = next(action for action in make_parser()._actions if hasattr(action, "choices") and action.choices)
    flags = {flag for parser in commands.choices.values() for flag in parser._option_string_actions}
    assert {meant.split()[0] for meant in hints.SYNONYMS.values()} <= flags
    named = {meant.replace(",", " ").split()[0] for meant in hints.COMMANDS.values()}
    assert named - {"--help", "--version"} <= COMMANDS.keys()
    assert not hints.COMMANDS.keys() & COMMANDS.keys()
    for words in hints.COMMANDS.values():
        assert {word for word in words.split() if word.startswith("--")} - {"--help", "--version"} <= flags
