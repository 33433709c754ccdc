"""A run on grey images from the files to what is measured and packed: one channel all along."""

import base64
import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY, AtStep
from torch.nn import functional as F

import flatnext
from flatnext import data, models
from flatnext.config import Config
from flatnext.data.digits import load_digits
from flatnext.deploy.pack import pack
from flatnext.errors import InputError
from flatnext.evaluation.attacks import robustness
from flatnext.evaluation.evaluate import evaluate
from flatnext.evaluation.saliency import explained_mistakes, grad_cam, overlay
from flatnext.evaluation.trained_model import load_trained_model
from flatnext.runs.records import Result
from flatnext.training import train

SETTINGS = {
    **TINY,
    "dataset": "folder",
    "image_size": 8,
    "epochs": 3,
    "validation": None,
    "train_images": None,
    "crop_padding": 1,
    "augment": "trivial",
    "cutout": 2,
    "mixup": 0.2,
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Return a folder of 200 digits as grey files, and one of the same as colour files."""
    folder = tmp_path_factory.mktemp("digits")
    _, split, _ = load_digits()
    for number, (image, label) in enumerate(zip(split.images[:200, 0], split.labels, strict=False)):
        for kind in ("L", "RGB"):
            path = folder / kind / str(label.item()) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.numpy()).convert(kind).save(path)
    return folder


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "grey"
    return folder, train(Config().override(SETTINGS), folder, data_dir=digits / "L")


def test_the_model_has_one_channel(run):
    folder, result = run
    assert isinstance(result, Result)
    state, metadata = models.read_weights(folder / "last.safetensors")
    assert state["conv1.weight"].shape[1] == models.input_channels(state) == 1
    assert len(json.loads(metadata["mean"])) == 1
    predictor = flatnext.load_predictor(folder)
    images = torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8)
    assert predictor(images).shape == (5, 10)
    assert flatnext.pretrained_info(folder).normalize(images).shape == images.shape
    with pytest.raises(InputError, match="N x 1 x H x W"):
        flatnext.pretrained_info(folder).normalize(images.expand(-1, 3, -1, -1))


def test_mistakes_are_grey_pictures(run):
    _, result = run
    assert result.mistakes
    for mistake in result.mistakes:
        assert Image.open(io.BytesIO(base64.b64decode(mistake.png))).mode == "L"


def test_it_resumes_to_the_bit(run, digits, tmp_path):
    folder, _ = run
    again = tmp_path / "run"

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Config().override(SETTINGS), again, data_dir=digits / "L", display=AtStep(7, stop))
    train(Config().override(SETTINGS), again, data_dir=digits / "L", resume=True)
    first, second = (models.read_weights(path / "last.safetensors")[0] for path in (folder, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_that_began_in_colour_goes_on_so(digits, tmp_path):
    def stop():
        raise KeyboardInterrupt

    config = Config().override({**SETTINGS, "epochs": 2})
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", data_dir=digits / "RGB", display=AtStep(7, stop))
    train(config, tmp_path / "run", data_dir=digits / "L", resume=True)
    assert models.input_channels(models.read_weights(tmp_path / "run" / "last.safetensors")[0]) == 3


def test_evaluation_of_grey_and_colour_images(run, digits, tmp_path):
    folder, result = run
    on_test = evaluate(folder, data_dir=digits / "L")
    assert on_test["accuracy"] == result.last.test.accuracy
    shutil.copytree(digits, tmp_path / "copy")  # the run's own folder is refused as a test set
    grey, colour = (evaluate(folder, data_dir=digits / "L", test_set=tmp_path / "copy" / kind) for kind in ("L", "RGB"))
    assert grey["count"] == 200
    assert grey["loss"] == colour["loss"]


def test_a_colour_model_is_given_grey_images(digits, tmp_path):
    config = Config().override({**SETTINGS, "epochs": 1})
    train(config, tmp_path / "run", data_dir=digits / "RGB")
    assert models.input_channels(models.read_weights(tmp_path / "run" / "last.safetensors")[0]) == 3
    # The same images in the folder as grey files: read in colour, as the run has them.
    losses = [evaluate(tmp_path / "run", data_dir=digits / kind)["loss"] for kind in ("L", "RGB")]
    assert losses[0] == losses[1]


def test_what_is_measured(run, digits):
    folder, _ = run
    model = load_trained_model(folder, data_dir=digits / "L")
    test = model.split("test")
    logits = model.predictor(test.images)
    assert explained_mistakes(model.predictor, logits, test)
    heat = grad_cam(model.predictor, test.images[:2], test.labels[:2])
    assert Image.open(io.BytesIO(overlay(test.images[0], heat[0]))).mode == "RGB"
    attacked = robustness(model.predictor, test.images[:4], test.labels[:4])
    assert attacked.images.shape == (4, 1, 8, 8)


def test_copies_for_inference(run):
    folder, _ = run
    model = flatnext.from_pretrained(folder)
    x = torch.randn(40, 1, 8, 8)
    with torch.no_grad():
        expected = model(x)
        assert torch.allclose(models.for_inference(model, "fp32")(x), expected, atol=1e-4)
        try:
            small = models.for_inference(model, "int8", x)
        except InputError as error:
            pytest.skip(str(error))  # a CPU without int8 dot products
        assert F.cosine_similarity(small(x), expected).min() > 0.98


def test_packed(run, digits, tmp_path):
    folder, _ = run
    packed = pack(folder, "resnext-folder-grey", data_dir=digits / "L", output=tmp_path)
    assert flatnext.load_predictor(packed.files[0])(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)).shape == (1, 10)


def test_a_picture_of_the_data(digits, tmp_path):
    dataset = data.load("folder", digits / "L", image_size=8)
    data.sample_grid(dataset, Config().override(SETTINGS).data, tmp_path / "samples.png")
    assert np.asarray(Image.open(tmp_path / "samples.png")).std() > 10
    assert "mean (grey)" in data.describe(dataset, digits)
