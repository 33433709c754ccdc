"""Runs that start from trained weights."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from same_run import assert_same_run, weights
from tiny import AtStep, tiny

from flatnext import models
from flatnext.config import Optimizer, named_model
from flatnext.data import Normalization
from flatnext.deploy.calibrate import calibrate
from flatnext.errors import InputError
from flatnext.evaluation import load_trained_model
from flatnext.files import sha256
from flatnext.models.transfer import freeze, transfer
from flatnext.models.weights import origin_of
from flatnext.runs.folder import RunFolder
from flatnext.training import RunState, StepStats, Stopped, load_data, make_optimizer, train
from flatnext.training.checkpoint import read_checkpoint
from flatnext.training.starting import normalized, settled

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return the folder of a trained run."""
    folder = tmp_path_factory.mktemp("source") / "run"
    train(tiny(), folder)
    return folder


def new_run(folder, config, classes=None):
    """Return a run that has not loaded anything, on the digits or on what is left of them by other classes."""
    partition = load_data(config, ".data")
    if classes:
        splits = {name: getattr(partition, name) for name in ("train", "validation", "test")}
        fewer = {name: replace(split, labels=split.labels % len(classes)) for name, split in splits.items()}
        partition = replace(partition, classes=tuple(classes), **fewer)
    return RunState(settled(config), RunFolder(folder), partition, CPU)


def differing(left, right):
    """Return the names of the tensors that are not the same."""
    return {name for name in left if not torch.equal(left[name], right[name])}


def test_the_same_classes_take_all_of_the_weights(source, tmp_path):
    run = new_run(tmp_path / "run", tiny(weights=str(source), ema=0.9))
    run.begin()
    assert not differing(weights(source), run.model.state_dict())
    assert not differing(weights(source), run.evaluated.state_dict())  # the average begins there too
    assert run.started_from.taken.startswith("all weights are taken; images are normalised as they were")
    assert run.started_from.sha256 == sha256(source / "last.safetensors")


def test_weights_that_are_calibrated_meanwhile_are_the_same(source, tmp_path):
    folder = shutil.copytree(source, tmp_path / "source")
    config = settled(tiny(weights=str(folder)))
    calibrate(folder, split="test")
    new_run(tmp_path / "run", config).begin()
    start = replace(config.start, weights_sha256=sha256(folder / "last.safetensors"))
    new_run(tmp_path / "run", replace(config, start=start)).begin()  # as runs of 0.1.0 noted it
    changed = {**weights(folder), "linear.bias": weights(folder)["linear.bias"] + 1}
    metadata = {name: str(value) for name, value in models.read_weights(folder / "last.safetensors")[1].items()}
    safetensors.torch.save_file(changed, folder / "last.safetensors", metadata)
    with pytest.raises(InputError, match="does not hold the weights that the run starts from"):
        new_run(tmp_path / "run", config).begin()


@pytest.mark.parametrize(
    ("changes", "seen"),
    [({}, False), ({"train_images": 50}, False), ({"split_seed": 1}, True), ({"calibration": 30}, True)],
)
def test_images_that_the_weights_may_know_calibrate_nothing(source, tmp_path, changes, seen):
    """Held out in both runs they are new to the weights; held out in the later one alone they may not be."""
    train(tiny(weights=str(source), **changes), tmp_path / "run")
    start = RunFolder(tmp_path / "run").environment().started_from
    assert start.may_know_held_out is seen
    assert ("answers are not calibrated" in start.taken) is seen
    assert ("conformal" in models.read_weights(tmp_path / "run" / "last.safetensors")[1]) is not seen
    copied = shutil.copy(tmp_path / "run" / "last.safetensors", tmp_path / "copied.safetensors")
    assert load_trained_model(copied).has_validation_split is not seen
    train(tiny(weights=str(copied), **changes), tmp_path / "next")  # it holds out the same images
    assert RunFolder(tmp_path / "next").environment().started_from.may_know_held_out is seen


def test_that_the_weights_may_know_images_is_kept_over_a_stop(source, tmp_path):
    stop = AtStep(6, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Stopped):
        train(tiny(weights=str(source), split_seed=1), tmp_path / "run", display=stop)
    train(tiny(weights=str(source), split_seed=1), tmp_path / "run", resume=True)
    assert origin_of(tmp_path / "run" / "last.safetensors").knows_held_out


@pytest.mark.parametrize(("classes", "words"), [("ab", "for 2 classes is new (it had 10)"), ("abcdefghij", "(it had")])
def test_other_classes_get_a_new_head(source, tmp_path, classes, words):
    run = new_run(tmp_path / "run", tiny(weights=str(source)), classes)
    fresh = copy.deepcopy(run.model.state_dict())
    run.begin()
    head = {"linear.weight", "linear.bias"}
    now = run.model.state_dict()
    assert differing({k: v for k, v in weights(source).items() if k not in head}, now) == set()
    assert all(torch.equal(fresh[name], now[name]) for name in head)
    assert words in run.started_from.taken


@pytest.mark.parametrize("method", ["sgd", "amp", "momentum-amp"])
def test_frozen_parts_stay_to_the_bit_also_through_a_resume(source, tmp_path, method):
    changes = {"epsilon": 0.05} if method != "sgd" else {}
    config = tiny(weights=str(source), freeze="stages", ema=0.9, method=method, **changes)
    train(config, tmp_path / "whole")
    with pytest.raises(Stopped):
        train(config, tmp_path / "run", display=AtStep(3, lambda: os.kill(os.getpid(), 2)))
    train(RunFolder(tmp_path / "run").config(), tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    changed = differing(weights(source), weights(tmp_path / "run"))
    assert {name.partition(".")[0] for name in changed} == {"layer2", "linear"}
    assert "layer2.0.bn1.running_mean" in changed
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["started_from"]["taken"].endswith("the stem and all stages but the last will not be trained")
    assert len(environment["sessions"]) == 2


@pytest.mark.parametrize(
    ("model", "which", "parts"),
    [
        ("resnext11", "none", set()),
        ("resnext11", "stem", {"conv1", "bn1"}),
        ("resnext11", "stages", {"conv1", "bn1", "layer1", "layer2"}),
        ("resnext11", "all-but-head", {"conv1", "bn1", "layer1", "layer2", "layer3"}),
        ("preact30", "stem", {"conv1"}),
        ("preact30", "stages", {"conv1", "layer1", "layer2"}),
        ("preact30", "all-but-head", {"conv1", "layer1", "layer2", "layer3", "bn"}),
    ],
)
def test_what_is_frozen(model, which, parts):
    network = models.build(named_model(model), 10)
    norms = freeze(network, which)
    assert {n.partition(".")[0] for n, p in network.named_parameters() if not p.requires_grad} == parts
    assert {n.partition(".")[0] for n, m in network.named_modules() if m in norms} == parts - {"conv1"}


def test_grey_images_see_the_same_as_in_three_channels():
    torch.manual_seed(0)
    colour = models.build(named_model("resnext11"), 10).eval()
    images = torch.randn(4, 1, 8, 8)
    same = images.expand(-1, 3, -1, -1)
    grey = models.build(named_model("resnext11"), 10, channels=1).eval()
    transfer(grey, colour.state_dict(), "file", head=True)
    torch.testing.assert_close(grey(images), colour(same), rtol=1e-4, atol=1e-5)
    again = models.build(named_model("resnext11"), 10).eval()
    transfer(again, grey.state_dict(), "file", head=True)
    torch.testing.assert_close(again(same), colour(same), rtol=1e-4, atol=1e-5)


def test_images_are_normalised_as_for_the_weights(source, tmp_path):
    file = tmp_path / "other.safetensors"
    with safetensors.safe_open(source / "last.safetensors", framework="pt") as content:
        metadata = content.metadata()
    safetensors.torch.save_file(
        weights(source), file, {**metadata, "mean": "[0.1, 0.2, 0.3]", "std": "[0.5, 0.6, 0.7]"}
    )
    config = settled(tiny(weights=str(file)))
    partition = load_data(config, ".data")
    channels = partition.train.images.shape[1]
    expected = Normalization((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    if channels == 1:
        expected = Normalization((pytest.approx(0.2),), (0.6,))
    assert normalized(config, partition, None).normalization == expected
    train(config, tmp_path / "run")
    file.unlink()  # a run that has a checkpoint does not need it
    assert normalized(config, partition, read_checkpoint(tmp_path / "run", finished=True)).normalization == expected
    assert json.loads((tmp_path / "run" / "config.json").read_text())["start"]["weights"] == str(file)


def test_other_weights_are_not_taken_for_those_that_the_run_began_with(source, tmp_path):
    file = tmp_path / "w.safetensors"
    file.write_bytes((source / "last.safetensors").read_bytes())
    config = settled(tiny(weights=str(file)))
    with safetensors.safe_open(source / "last.safetensors", framework="pt") as content:
        safetensors.torch.save_file({k: v + 1 for k, v in weights(source).items()}, file, content.metadata())
    with pytest.raises(
        InputError, match=r"w.safetensors does not hold the weights that the run starts from \(their SHA-256"
    ):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_model_is_that_of_the_weights(source):
    config = tiny().override({"blocks": (1, 1)})
    plain = replace(config, model=replace(config.model, cardinality=4))
    with pytest.raises(InputError, match="leave the model out, as it is that of the weights"):
        settled(plain.override({"weights": str(source)}))
    from_recipe = replace(tiny(), recipe="quick", model=named_model("resnext11")).override({"weights": str(source)})
    assert settled(from_recipe).model == config.model
    with pytest.raises(InputError, match=r"model is resnext11, and .* has weights of a model of its own"):
        settled(from_recipe, model_given=True)


@pytest.mark.parametrize("wrong", [{"weights": "other.pt"}, {"schedule_begins": 1, "epochs": 2}])
def test_what_cannot_begin_deletes_nothing(source, tmp_path, wrong):
    run = shutil.copytree(source, tmp_path / "run")
    if "weights" in wrong:
        torch.save({"conv.weight": torch.zeros(3, 3)}, tmp_path / "other.pt")
        wrong = {"weights": str(tmp_path / "other.pt")}
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file() and path.name[0] != "."}
    with pytest.raises(InputError, match=r"entries fit|schedule_begins"):
        train(tiny(**wrong), run, overwrite=True)
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.name in before} == before


def test_settings_for_weights_without_weights_are_refused():
    for name, value in (("freeze", "stem"), ("backbone_lr_factor", 0.1)):
        with pytest.raises(InputError, match=f"{name} is {value}: it is for a run that starts from weights"):
            tiny(**{name: value})
    assert tiny("finetune", weights=None).start == tiny().start


def test_layers_before_the_head_may_learn_more_slowly():
    network = models.build(named_model("resnext11"), 10)
    optimizer = make_optimizer(network, Optimizer(), 0.1)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(groups) == len(list(network.parameters()))
    for name, p in network.named_parameters():
        assert groups[id(p)].get("lr_factor", 1.0) == (1.0 if name.startswith("linear.") else 0.1)
        assert groups[id(p)]["weight_decay"] == (5e-4 if p.ndim > 1 else 0.0)


def test_a_lower_rate_is_kept_through_a_resume_and_the_schedule(source, tmp_path):
    config = tiny(weights=str(source), backbone_lr_factor=0.01, momentum=0.0, nesterov=False, weight_decay=0.0)
    train(config, tmp_path / "whole")
    with pytest.raises(Stopped):
        train(config, tmp_path / "run", display=AtStep(3, lambda: os.kill(os.getpid(), 2)))
    train(RunFolder(tmp_path / "run").config(), tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    run = new_run(tmp_path / "new", config)
    stats = StepStats(torch.tensor(1.0), torch.tensor(1), 2, 2)
    run.advance(lambda *_: stats, torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64))
    rates = [group["lr"] for group in run.optimizer.param_groups]
    assert rates == pytest.approx([rates[0], rates[0], rates[0] * 0.01, rates[0] * 0.01])
