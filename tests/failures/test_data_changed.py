"""Data that have changed since a run began: resuming and evaluating are refused, and the message says what changed."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from killing import Killed
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import AtStep, tiny

import flatnext
from flatnext.errors import InputError
from flatnext.runs.folder import RunFolder
from flatnext.runs.reading import read_environment
from flatnext.training import train

CONFIG = tiny(dataset="folder", image_size=8, train_images=None, validation=None, epochs=2)


def paint(folder, count, seed=0):
    random = np.random.default_rng(seed)
    for name in ("apple", "pear"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{seed}-{number}.png")


def die():
    raise Killed


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Return a folder with the data of a run that was killed after its first epoch, and that run."""
    folder = tmp_path_factory.mktemp("begun")
    paint(folder / "data" / "train", 24)
    paint(folder / "data" / "test", 6)
    with pytest.raises(Killed):
        train(CONFIG, folder / "run", data_dir=folder / "data", display=AtStep(4, die))
    assert len(RunFolder(folder / "run").epochs()) == 1
    return folder


def rename(data):
    for split in ("train", "test"):
        (data / split / "apple").rename(data / split / "zapple")


def add(data):
    paint(data / "train", 5, seed=1)


def repaint(data):
    shutil.copy(data / "test" / "pear" / "0-0.png", data / "test" / "pear" / "0-1.png")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rename, "of its classes apple is gone and zapple is new"),
        (add, r"\d+ training images have become \d+"),
        (repaint, "pixels or labels of the 12 test images are different"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*has not finished")
def test_a_run_does_not_go_on_with_other_data(tmp_path, begun, change, words):
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    change(tmp_path / "data")
    with pytest.raises(InputError, match=words) as caught:
        train(CONFIG, tmp_path / "run", data_dir=tmp_path / "data", resume=True)
    assert "restore them" in str(caught.value)
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before
    if change is add:  # the test images are the same, and evaluating on them is too
        assert flatnext.evaluate(tmp_path / "run", data_dir=tmp_path / "data")["count"] == 12
        with pytest.raises(InputError, match=words):
            flatnext.evaluate(tmp_path / "run", data_dir=tmp_path / "data", split="train")
    else:
        with pytest.raises(InputError, match=words if change is repaint else "zapple"):
            flatnext.evaluate(tmp_path / "run", data_dir=tmp_path / "data")


def test_a_run_goes_on_with_the_same_data_elsewhere(tmp_path, begun):
    shutil.copytree(begun / "run", tmp_path / "run")
    shutil.copytree(begun / "data", tmp_path / "elsewhere")
    train(CONFIG, tmp_path / "run", data_dir=tmp_path / "elsewhere", resume=True)
    fingerprint = read_environment(tmp_path / "run" / "environment.json").data
    assert sum(fingerprint.test.counts) == 12


def test_a_folder_run_of_version_0_1_0_does_not_go_on(tmp_path, begun):
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    (path,) = (tmp_path / "run").glob("state-*.pt")
    state = torch.load(path, weights_only=True)
    del state["data"]
    torch.save(state, path)
    last = tmp_path / "run" / "last.safetensors"
    with safe_open(last, "pt") as file:
        metadata = {name: value for name, value in file.metadata().items() if name != "state_sha256"}
    save_file(load_file(last), last, metadata)
    with pytest.raises(InputError, match=r"0\.1\.0 divided a folder in another way"):
        train(CONFIG, tmp_path / "run", data_dir=tmp_path / "data", resume=True)
