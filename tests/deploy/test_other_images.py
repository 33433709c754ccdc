"""Labelled images of somebody's own: read alike by all that take them, and never those of the training."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from packed import one_line
from PIL import Image

import flatnext
from flatnext.deploy.calibrate import calibrate
from flatnext.deploy.compare import compare
from flatnext.deploy.export import export
from flatnext.errors import FallbackWarning, InputError
from flatnext.models import read_weights
from flatnext.models.metadata import add_metadata
from flatnext.runs.folder import RunFolder
from flatnext.training import load_data

USES = {
    "evaluate": lambda run, images, target: flatnext.evaluate(run, test_set=images),
    "calibrate": lambda run, images, target: calibrate(run, test_set=images, output=target),
    "compare": lambda run, images, target: compare(run, run, test_set=images),
    "export": lambda run, images, target: export(run, "onnx", target, test_set=images),
}


@pytest.fixture(params=USES)
def use(request, tmp_path):
    return lambda run, images: USES[request.param](run, images, tmp_path / "made.onnx")


@pytest.fixture
def images(tmp_path):
    """Return a folder of 40 digits in class folders."""
    digits = flatnext.load_data("digits").test
    for index in range(40):
        folder = tmp_path / "set" / str(int(digits.labels[index]))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.images[index].permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    return tmp_path / "set"


def test_the_images_of_the_training_are_refused(run, images, use, monkeypatch, tmp_path):
    monkeypatch.setattr(RunFolder, "data_dir", lambda self: images if self.path.name == run.name else None)
    with pytest.raises(InputError, match=r"holds the images that .* was trained on") as caught:
        use(run, images)
    assert one_line(caught)
    assert not (tmp_path / "made.onnx").exists()


def saved(split, path):
    """Write a split of images as a test set."""
    np.savez(path, images=split.images.permute(0, 2, 3, 1).numpy(), labels=split.labels.numpy())
    return path


@pytest.mark.parametrize("part", ["train", "validation"])
def test_copies_of_the_training_images_are_refused(run, use, part, tmp_path):
    """Also of weights that were copied out of their run, by what they say of their data."""
    made = flatnext.recipe("quick").from_json(json.loads((run / "config.json").read_text()))
    partition = load_data(made, ".data")
    copied = tmp_path / ("mine.safetensors" if part == "train" else "best.safetensors")
    shutil.copy(run / "last.safetensors", copied)
    with pytest.raises(InputError, match="was trained on" if part == "train" else "have chosen"):
        use(copied, saved(getattr(partition, part), tmp_path / "set.npz"))
    assert not (tmp_path / "made.onnx").exists()
    use(copied, saved(partition.test, tmp_path / "other.npz"))


def test_an_export_is_compared_on_any_images(run, images, tmp_path):
    """It does not say what it was trained on."""
    exported = export(run, "onnx", tmp_path / "model.onnx", images=20).path
    assert compare(run, exported, test_set=images).comparison.changes.count == 40


def test_damaged_files_are_left_out_where_they_were_in_training(run, images, use, tmp_path):
    (images / "3" / "cut.png").write_bytes(b"none")
    with pytest.raises(InputError, match=r"cut\.png .* cannot be read"):
        use(run, images)
    copy = shutil.copytree(run, tmp_path / "run")
    config = json.loads(read_weights(run / "last.safetensors")[1]["config"])
    config["data"]["skip_damaged"] = True
    add_metadata(copy / "last.safetensors", {"config": json.dumps(config)})
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.warns(FallbackWarning, match=r"1 file that cannot be read was left out: .*cut\.png"):
        use(copy, images)


def test_the_settings_may_leave_damaged_files_out(run, images):
    (images / "3" / "cut.png").write_bytes(b"none")
    with pytest.warns(FallbackWarning, match="left out"):
        scores = flatnext.evaluate(run, test_set=images, overrides={"skip_damaged": True})
    assert scores["count"] == 40
