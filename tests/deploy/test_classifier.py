"""A classifier and its answers: images in every form, probabilities, sets, and errors."""

import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_classifier import CLASSES, classifier, picture
from packed import one_line
from PIL import Image

import flatnext
from flatnext.deploy.classifier import chunks, softmax
from flatnext.deploy.pixels import Preprocessing
from flatnext.deploy.prediction import Question
from flatnext.errors import InputError
from flatnext.pictures import PictureError
from flatnext.runs.conformal import Conformal


def labels(predictions):
    return [prediction.label for prediction in predictions]


FORMS = {
    "pillow": picture(250, 250, 250),
    "grey pillow": picture(250),
    "H x W": np.full((6, 9), 250, np.uint8),
    "H x W x 1": np.full((6, 9, 1), 250, np.uint8),
    "H x W x 3": np.full((6, 9, 3), 250, np.uint8),
    "H x W x 4, transparent": np.zeros((6, 9, 4), np.uint8),  # on white
    "as the model takes it": np.full((4, 4, 3), 250, np.uint8),
    "a view": np.full((3, 9, 12), 250, np.uint8).transpose(1, 2, 0)[:, ::-2],
    "N x H x W x C": np.full((1, 6, 9, 3), 250, np.uint8),
    "tensor C x H x W": torch.full((3, 6, 9), 250, dtype=torch.uint8),
    "grey tensor": torch.full((1, 4, 4), 250, dtype=torch.uint8),
    "tensor N x C x H x W": torch.full((1, 3, 4, 4), 250, dtype=torch.uint8),
}


@pytest.mark.parametrize("image", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_in_every_form(image, channels):
    model = classifier(preprocessing=Preprocessing(image_size=4, channels=channels))
    assert labels(model.predict(image)) == ["bright"]
    assert labels(model.predict([image, image])) == ["bright", "bright"]


def test_files_by_path_and_text_and_lists_of_all_kinds(tmp_path):
    picture(0, 0, 0).save(tmp_path / "dark.png")
    mixed = [str(tmp_path / "dark.png"), tmp_path / "dark.png", picture(128), np.full((2, 4, 4, 3), 255, np.uint8)]
    assert labels(classifier().predict(mixed)) == ["dark", "dark", "middle", "bright", "bright"]
    assert labels(classifier().predict(tmp_path / "dark.png")) == ["dark"]
    assert classifier().predict([]) == []


def test_a_file_a_pillow_image_and_an_array_are_the_same_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for resize in ("crop", "pad", "stretch"):
        preprocessing = Preprocessing(image_size=8, resize=resize)
        forms = [tmp_path / "a.png", Image.fromarray(pixels), pixels, torch.from_numpy(pixels).permute(2, 0, 1)]
        first, *others = preprocessing.every(forms)
        assert first.shape == (3, 8, 8)
        assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((4, 4, 3)), r"float64 \(4, 4, 3\): give uint8, 0 to 255 \(of values from 0 to 1: multiply by 255"),
        (torch.zeros(3, 4, 4), r"float32 \(3, 4, 4\): give uint8"),
        (np.zeros((4, 4, 3), np.int64), r"int64 .*: give uint8, 0 to 255$"),
        (np.zeros((3, 4, 5), np.uint8), r"uint8 \(3, 4, 5\): give a path"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8 \(0, 4, 3\): give a path"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), r"uint8 \(2, 4, 4\)"),
        (torch.zeros(4, 4, dtype=torch.uint8), r"the tensor is \(4, 4\): give C x H x W"),
        (7, "of type int: give a path"),
        (b"bytes", "of type bytes: give a path"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(images, words):
    with pytest.raises(InputError, match=words) as caught:
        classifier().predict(images)
    assert one_line(caught)


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(PictureError, match=r"notes\.txt"):
        classifier().predict(tmp_path / "notes.txt")


def test_probabilities_are_the_softmax_after_the_temperature():
    logits = np.array([[1.0, 2.0, 4.0], [1000.0, 0.0, -1000.0]])
    expected = torch.tensor(logits).div(1.7).softmax(dim=1).numpy()
    np.testing.assert_allclose(softmax(logits, 1.7, Path("x")), expected, rtol=1e-12, atol=1e-300)
    model = classifier(temperature=10.0)
    sharp, soft = (c.predict(picture(250))[0].probability for c in (classifier(), model))
    assert soft < sharp


def test_an_output_that_is_not_finite_is_an_error():
    with pytest.raises(InputError, match="not finite"):
        classifier(logits=lambda images: np.full((len(images), 3), np.nan)).predict(picture(0))


def test_top_is_in_descending_order_and_at_most_all():
    [prediction] = classifier().predict(picture(240), top=99)
    assert [label for label, _ in prediction.top] == ["bright", "middle", "dark"]
    assert sum(p for _, p in prediction.top) == pytest.approx(1)
    assert (prediction.label, prediction.probability) == prediction.top[0]
    assert prediction.set is None
    assert not prediction.none
    assert len(classifier().predict(picture(240), top=2)[0].top) == 2


def calibrated(score, images=99):
    return classifier(conformal=Conformal.of([score] * images, temperature=1.0, source="a test"))


def test_the_set_has_the_classes_that_are_likely_enough_and_may_be_empty():
    between = picture(191)  # as near to middle as to bright
    assert calibrated(0.6).predict(between, coverage=0.9)[0].set in (("middle", "bright"), ("bright", "middle"))
    [neither] = calibrated(0.3).predict(between, coverage=0.9)
    assert (neither.set, neither.none) == ((), True)
    [sure] = calibrated(0.3).predict(picture(255), coverage=0.9)
    assert (sure.set, sure.none) == (("bright",), False)


def test_below_the_threshold_is_none_of_these():
    model = classifier()
    assert model.predict(picture(191), threshold=0.6)[0].none
    assert not model.predict(picture(255), threshold=0.6)[0].none
    assert model.predict(picture(191), threshold=0.6)[0].label in CLASSES


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"top": 0}, "top is 0: give at least 1"),
        ({"threshold": 1.5}, r"threshold is 1\.5"),
        ({"coverage": 1.0}, "above 0 and below 1"),
        ({"coverage": 0.9}, "no calibration to keep a coverage of 0.9: calibrate the model with flatnext calibrate"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_questions_are_refused_before_any_image_is_read(question, words):
    with pytest.raises(InputError, match=words):
        classifier().predict("no-such-file.png", **question)


def test_a_coverage_beyond_the_calibration_is_refused():
    with pytest.raises(InputError, match="needs 999 calibration images, and there are 99"):
        calibrated(0.5).predict(picture(0), coverage=0.999)


def test_files_are_answered_in_order_and_damaged_ones_beside_them(tmp_path):
    for index in range(7):
        picture(40 * index).save(tmp_path / f"{index}.png")
    (tmp_path / "3.png").write_bytes(b"damaged")
    paths = sorted(tmp_path.iterdir())
    answers = list(classifier().predict_files(iter(paths), Question(), batch_size=3))
    assert [path for path, _ in answers] == paths
    assert [isinstance(answer, PictureError) for _, answer in answers] == [i == 3 for i in range(7)]
    assert [answers[0][1].label, answers[6][1].label] == ["dark", "bright"]


def test_a_batch_that_is_all_damaged(tmp_path):
    paths = [tmp_path / "missing.png"] * 3
    assert all(isinstance(a, PictureError) for _, a in classifier().predict_files(paths, Question(), batch_size=2))


def test_the_paths_are_taken_a_batch_at_a_time(tmp_path):
    picture(0).save(tmp_path / "a.png")
    taken = []
    answers = classifier().predict_files((taken.append(i) or tmp_path / "a.png" for i in range(100)), Question(), 10)
    next(answers)
    assert len(taken) == 10


def test_chunks():
    assert list(chunks(iter(range(5)), 2)) == [[0, 1], [2, 3], [4]]
    assert list(chunks(iter(()), 2)) == []


def test_a_run_answers_as_its_predictor_does(run):
    digits = flatnext.load_data("digits")
    model = flatnext.load(run)
    images = digits.test.images[:50]
    logits = flatnext.load_predictor(run)(images)
    assert labels(model.predict(images, batch_size=7)) == [digits.classes[i] for i in logits.argmax(dim=1)]
    probabilities = (logits.double() / model.temperature).softmax(dim=1).max(dim=1).values
    answered = [prediction.probability for prediction in model.predict(images)]
    np.testing.assert_allclose(answered, probabilities.numpy(), rtol=1e-5)


def test_a_checkpoint_and_a_device_are_only_for_what_has_them(run, tmp_path):
    assert flatnext.load(run, checkpoint="best").source.name == "best.safetensors"
    with pytest.raises(InputError, match="does not exist: give a run folder"):
        flatnext.load("nothing")
    with pytest.raises(InputError, match="checkpoint is 'best': it is for run folders"):
        flatnext.load(tmp_path / "model.onnx", checkpoint="best")
    with pytest.raises(InputError, match="runs on the CPU"):
        flatnext.load(tmp_path / "model.onnx", device="cuda")


def test_the_names_come_without_torch():
    code = "import sys, flatnext; flatnext.load; flatnext.Prediction; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_loader_of_data_has_a_name_of_its_own():
    assert flatnext.load_data is flatnext.data.load
    assert set(flatnext.__all__) <= set(dir(flatnext))


def test_a_model_in_onnx_answers_with_what_its_manifest_says(monkeypatch):
    from flatnext.deploy.manifest import Manifest

    conformal = Conformal.of([0.3] * 99, temperature=2.0, source="a test")

    class Exported:
        def __init__(self, path):
            self.manifest = Manifest(
                name="x", classes=CLASSES, image_size=4, channels=1, resize="pad", temperature=2.0, conformal=conformal
            )

        def predict(self, images):
            assert images.shape[1:] == (1, 4, 4)
            return types.SimpleNamespace(logits=classifier().logits(images))

    monkeypatch.setattr("flatnext.deploy.onnx_model.OnnxModel", Exported)
    model = flatnext.load("model.onnx")
    assert (model.temperature, model.preprocessing.resize) == (2.0, "pad")
    [prediction] = model.predict(picture(250, size=(4, 4)), coverage=0.9)
    assert prediction.set == ("bright",)
    assert prediction == classifier(temperature=2.0, conformal=conformal).predict(picture(250), coverage=0.9)[0]
