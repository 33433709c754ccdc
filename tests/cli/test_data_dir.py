"""What `--data-dir` may be: a folder that is there, unless the data set that is to be downloaded to it is named."""

import zipfile
from argparse import Namespace

import pytest
from PIL import Image

from flatnext.cli.flags import DATA_DIR, data_dir
from flatnext.config import recipe
from flatnext.data import archive, cifar
from flatnext.training import train

COMMANDS = {
    "data": ["data"],
    "train": ["train"],
    "train --recipe": ["train", "--recipe", "quick"],
    "study": ["study", "--seeds", "1"],
    "tune": ["tune", "sgd", "--vary", "lr=0.1,0.2"],
}


@pytest.fixture
def fetched(monkeypatch):
    """Return the folders that something is downloaded to; nothing is."""
    folders = []

    def fetch(file, data_dir, *, progress):
        folders.append(str(data_dir))
        raise archive.InputError("not fetched")

    monkeypatch.setattr(cifar, "fetch", fetch)
    return folders


def paint(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(file)


def make(tmp_path):
    """Make what people have in place of a folder with a folder of pictures for each class."""
    paint(tmp_path / "flat" / "cat.1.png")
    paint(tmp_path / "split" / "train" / "cat.1.png")
    paint(tmp_path / "split" / "val" / "cat.2.png")
    paint(tmp_path / "table" / "images" / "1.png")
    (tmp_path / "table" / "labels.csv").write_text("file,label\n1.png,cat\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "pets.zip").touch()
    (tmp_path / "cifar100").mkdir()
    (tmp_path / "cifar100" / "cifar-100-binary.tar.gz").touch()
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as file:
        file.writestr("pets/cat/1.png", "")


WRONG = {
    "nowhere": "nowhere does not exist: give a folder with a folder of pictures for each class; to download a data set "
    "there, name it (--dataset cifar10)",
    "empty": "empty is empty: put a folder of pictures for each class there; to download a data set there, name it",
    "other": "other holds no pictures and no CIFAR, but pets.zip: put a folder of pictures for each class there",
    "flat": "flat holds 1 image and no class folders: make a folder for each class there, and move its images into it, "
    "as in flat/CLASS/cat.1.png",
    "pets.zip": "pets.zip is a file and not a folder: unpack it, and give a folder with a folder of images for each",
    "cifar100": "cifar100 holds cifar100: say so with --dataset cifar100",
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("folder", WRONG)
def test_a_folder_without_data_is_an_error_where_no_data_set_is_named(run, tmp_path, fetched, command, folder):
    make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    status, out, err = run(*COMMANDS[command], "--data-dir", folder)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"flatnext: error: {WRONG[folder]}" in err
    assert sorted(tmp_path.rglob("*")) == before
    assert not fetched


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        (
            "split",
            "split/train holds 1 image and no class folders: make a folder for each class there, and move its images "
            "into it, as in split/train/CLASS/cat.1.png; likewise in split/val",
        ),
        (
            "table",
            "table has 1 class folder (images): give at least two, each with its images; labels in a table "
            "(labels.csv) are not read",
        ),
    ],
)
def test_layouts_of_other_programs_are_named(run, tmp_path, fetched, folder, message):
    make(tmp_path)
    for named in ([], ["--dataset", "folder"]):
        status, _, err = run("data", "--data-dir", folder, *named)
        assert (status, err) == (2, f"flatnext: error: {message}\n")
    assert not fetched


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (["--dataset", "cifar10", "--data-dir", "new"], "new"),
        (["--dataset", "cifar100", "--data-dir", "empty"], "empty"),
        ([], ".data"),
        (["--data-dir", ".data"], ".data"),
    ],
)
@pytest.mark.parametrize("command", ["data", "train"])
def test_what_is_named_is_downloaded(run, tmp_path, fetched, command, arguments, folder):
    make(tmp_path)
    assert "not fetched" in run(command, *arguments)[2]
    assert fetched == [folder]


@pytest.mark.parametrize("config", ['{"recipe": "quick", "epochs": 1}', '{"recipe": "sgd", "epochs": 1}'])
def test_pictures_are_not_left_out_for_the_data_set_of_a_config_file(run, tmp_path, fetched, config):
    for number in range(8):
        paint(tmp_path / "pets" / "ab"[number % 2] / f"{number}.png")
    (tmp_path / "q.json").write_text(config)
    status, out, err = run("train", "--config", "q.json", "--data-dir", "pets")
    assert (status, out) == (2, "")
    assert "pets holds pictures, and q.json is for" in err
    assert "give --dataset folder as well, or --dataset " in err
    assert not fetched


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--recipe", "quick"],
        ["train", "--config", "q.json"],
        ["study", "--recipes", "sgd", "quick"],
        ["tune", "quick", "--vary", "lr=1,2"],
    ],
)
def test_cifar10_is_not_left_out_for_the_digits(run, tmp_path, fetched, command):
    (tmp_path / "q.json").write_text('{"recipe": "quick"}')
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cifar-10-binary.tar.gz").touch()
    status, out, err = run(*command, "--data-dir", "data")
    assert (status, out) == (2, "")
    assert (
        "quick is for digits, which lie in no folder: leave --data-dir out, or give the --dataset that it holds" in err
    )
    assert not fetched


def test_pictures_beside_the_data_set_of_a_config_file_are_no_error(run, tmp_path, fetched):
    make(tmp_path)
    paint(tmp_path / "cifar100" / "cat" / "1.png")
    paint(tmp_path / "cifar100" / "dog" / "2.png")
    (tmp_path / "q.json").write_text('{"recipe": "sgd", "epochs": 1, "data": {"dataset": "cifar100"}}')
    assert "holds pictures" not in run("train", "--config", "q.json", "--data-dir", "cifar100")[2]


def test_another_data_set_is_not_looked_for_in_the_folder_of_the_run(tmp_path):
    pets = tmp_path / "pets"
    for number in range(24):
        paint(pets / "ab"[number % 2] / f"{number}.png")
    small = {"image_size": 8, "epochs": 1, "batch_size": 4, "model": "resnext11", "cutout": 0}
    train(recipe("sgd").override({"dataset": "folder", **small}), tmp_path / "run", data_dir=pets)
    for named, folder in ((None, pets), ("folder", pets), ("cifar10", DATA_DIR)):
        assert data_dir(Namespace(data_dir=None, dataset=named), tmp_path / "run") == folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "resnext29-cifar10"],
        ["export", "resnext29-cifar10", "--to", "onnx"],
        ["compare", "resnext29-cifar10", "resnext29-cifar10-cpu"],
        ["calibrate", "resnext29-cifar10", "--split", "test", "--output", "c.safetensors"],
        ["train", "--config", "mine.json"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_with_weights_the_folder_has_to_be_there(run, tmp_path, fetched, arguments):
    (tmp_path / "mine.json").write_text("{}")
    status, _, err = run(*arguments, "--data-dir", "nowhere")
    assert (status, err) == (
        2,
        "flatnext: error: nowhere does not exist: correct --data-dir, or make the folder where a data set is to be "
        "downloaded to it\n",
    )
    assert not fetched
