"""Scores of trained weights, and the predictor that they come from."""

from __future__ import annotations

import json
import math
import re
import shutil

import pytest
import safetensors.torch
import torch
from places import FIXTURES
from predictors import predictor_of
from torch import nn

import flatnext
from flatnext import data, models
from flatnext.cli import main
from flatnext.errors import InputError
from flatnext.evaluation import Predictor, load_predictor, load_trained_model, most_confident_errors, score

RUNS = FIXTURES / "runs-of-0.1.0"
RUN = RUNS / "study" / "quick-amp" / "seed-1"


@pytest.fixture(scope="module")
def model():
    return load_trained_model(RUN)


def test_evaluate_gives_the_scores_of_version_0_1_0():
    expected = json.loads((RUNS / "expected" / "figures.json").read_text())["evaluate"]
    scores = flatnext.evaluate(RUN, checkpoint="best")
    assert scores["loss"] == pytest.approx(expected["loss"], abs=1e-4)
    assert scores["accuracy"] == expected["accuracy"]
    assert scores["count"] == expected["count"]
    assert scores["confusion"] == expected["confusion"]
    assert scores["classes"] == tuple("0123456789")
    assert scores["split"] == "test"
    json.dumps(scores)


def test_a_predictor_needs_no_data_and_predicts_as_the_run_ended(model):
    result = json.loads((RUN / "result.json").read_text())
    predictor = load_predictor(RUN)
    test = model.split("test")
    logits = predictor(test.images)
    assert torch.equal(logits, model.predictor(test.images))
    assert (logits.argmax(1) == test.labels).double().mean() == result["last"]["test"]["accuracy"]
    assert predictor.classes == tuple("0123456789")
    assert float(score(logits, test.labels).loss) == pytest.approx(result["last"]["test"]["loss"], abs=1e-4)


def test_splits_are_those_of_the_run(model):
    partition = data.partition(model.dataset, model.config.data)
    assert torch.equal(model.split("train").images, partition.train.images)
    assert torch.equal(model.split("validation").images, partition.validation.images)
    assert torch.equal(model.split("test").images, model.dataset.test.images)


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_logits_are_those_of_the_model_on_normalised_images(precision):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 5))
    network[1].running_mean.normal_()
    network.to(torch.float64 if precision == "fp64" else torch.float32)
    images = torch.randint(256, (7, 3, 8, 8), dtype=torch.uint8)
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.25])
    )
    predictor = predictor_of(network, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), precision=precision)
    network.train()
    network[2].eval()
    logits = predictor(images, batch_size=3)
    assert [module.training for module in network] == [True, True, False, True, True]
    assert not logits.requires_grad
    with torch.no_grad():
        wanted = network.double().eval()((images.double() / 255 - mean) / std)
    torch.testing.assert_close(logits.double(), wanted, atol=1e-5 if precision == "fp32" else 1e-12, rtol=0)


def test_logits_follow_the_model_and_are_ordinary_tensors():
    model = flatnext.create_model("resnext11", classes=10).eval()
    predictor, images = predictor_of(model), torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    before, copy = predictor(images), predictor.inference_copy
    assert predictor.inference_copy is copy
    with torch.no_grad():
        model.linear.bias += 1
    torch.testing.assert_close(predictor(images), before + 1)
    scale = torch.ones(1, requires_grad=True)
    (before * scale).sum().backward()  # as a fit of the temperature does


def test_gradients_by_the_inputs_go_through_forward(model):
    predictor = load_predictor(RUN)
    inputs = predictor.normalize(model.split("test").images[:2]).requires_grad_()
    predictor(model.split("test").images[:2])  # what was used without gradients has them later
    predictor.forward(inputs).sum().backward()
    assert bool((inputs.grad != 0).any())


def test_weights_without_classes_need_their_data_set(tmp_path, model):
    torch.save(model.predictor.model.state_dict(), tmp_path / "w.pt")
    overrides = {"dataset": "digits", "blocks": model.config.model.blocks, "cardinality": 2, "stem": 8}
    with pytest.raises(InputError, match="does not say its classes"):
        load_predictor(tmp_path / "w.pt", overrides=overrides)
    predictor = load_predictor(tmp_path / "w.pt", overrides=overrides, dataset=model.dataset)
    assert predictor.classes == model.dataset.classes
    assert isinstance(predictor, Predictor)


def test_weights_of_other_classes_are_refused(tmp_path):
    state, metadata = models.read_weights(RUN / "last.safetensors")
    from safetensors.torch import save_file

    metadata = metadata | {"classes": json.dumps([f"class {i}" for i in range(10)])}
    save_file(state, tmp_path / "w.safetensors", metadata)
    with pytest.raises(InputError, match=r"knows the classes class 0, .*; the data has 0, 1"):
        load_trained_model(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "all"}, "split is 'all'"),
        ({"split": "train", "test_set": "x"}, "give one of them"),
        ({"checkpoint": "third"}, "third"),
        ({"device": "toaster"}, "device 'toaster'"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(InputError, match=message):
        flatnext.evaluate(RUN, **options)


@pytest.mark.parametrize(("settings", "message"), [({"precision": "int8"}, "precision is 'int8'")])
def test_bad_predictors(settings, message):
    with pytest.raises(InputError, match=message):
        predictor_of(nn.Identity(), **settings)
    with pytest.raises(InputError, match="batch_size is 0"):
        predictor_of(nn.Identity())(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), batch_size=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_image_whose_logits_are_not_finite_is_classified_wrongly(bad):
    labels = torch.arange(6) % 3
    logits = torch.eye(3)[labels]  # all correct
    logits[0], logits[4, 1] = bad, bad  # where torch's argmax of NaN is the label
    scores = score(logits, labels)
    assert (scores.accuracy, scores.count, scores.not_finite, scores.loss) == (4 / 6, 6, 2, None)
    assert [sum(row) for row in scores.confusion] == [2, 2, 2]
    assert sum(scores.confusion[k][k] for k in range(3)) == 4
    wrong = logits.clone()
    wrong[5] = torch.tensor([9.0, 0.0, 0.0])
    split = data.Split(torch.zeros(6, 3, 2, 2, dtype=torch.uint8), labels)
    assert [mistake.index for mistake in most_confident_errors(wrong, split)] == [5]


def test_weights_whose_logits_are_not_finite_are_scored_in_words(tmp_path, capsys):
    folder = shutil.copytree(RUN, tmp_path / "run")
    with safetensors.safe_open(folder / "last.safetensors", "pt") as file:
        metadata = file.metadata()
    weights = safetensors.torch.load_file(folder / "last.safetensors")
    weights["linear.weight"][0] = 1e38
    weights["linear.weight"][1] = -1e38
    safetensors.torch.save_file(weights, folder / "last.safetensors", metadata)
    scores = flatnext.evaluate(folder)
    assert (scores["loss"], scores["accuracy"], scores["not_finite"]) == (None, 0.0, 360)
    assert main(["evaluate", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "accuracy 0.00%, loss not finite" in shown
    assert "the outputs for 360 images are not finite, and count as wrong" in shown
    assert main(["evaluate", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["not_finite"] == 360
    for command in (["evidence", str(folder)], ["pack", str(folder), "--name", "resnext11-digits-x"]):
        assert main([*command, "--output", str(tmp_path / "made")]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("flatnext: error: ")
        assert re.search("not finite|does not fit into torch.float16", error)
