"""Every public function that takes a name answers one that is unknown with those that are like it."""

import pytest

import flatnext
from flatnext.deploy.export import export
from flatnext.errors import InputError

CALLS = {
    "create_model": (lambda: flatnext.create_model("resnext12"), "did you mean resnext29 or resnext20 or resnext11?"),
    "recipe": (lambda: flatnext.recipe("ampp"), "did you mean amp?"),
    "recipe with a method": (lambda: flatnext.recipe("quick+samm"), "did you mean quick+sam?"),
    "recipe with a model": (lambda: flatnext.recipe("quick-resnet31"), "did you mean quick-resnet30?"),
    "recipe unlike any": (lambda: flatnext.recipe("foo"), "choose one of report-sgd, report-text-sgd"),
    "override": (lambda: flatnext.Config().override({"epoch": 3}), "did you mean epochs?"),
    "override method": (lambda: flatnext.Config().override({"method": "samm"}), "did you mean sam?"),
    "override model": (lambda: flatnext.Config().override({"model": "resnet31"}), "did you mean resnet30?"),
    "Config": (lambda: flatnext.Config.from_json({"lr": 1}), "it is optimizer.learning_rate, in the section optimizer"),
    "Data": (lambda: flatnext.Data(dataset="digit"), "choose one of cifar10, cifar100, digits, folder"),
    "load_data": (lambda: flatnext.load_data("digit"), "did you mean digits?"),
    "load_data of a folder": (lambda: flatnext.load_data("pets"), "for the images in pets: dataset 'folder', data_dir"),
    "from_pretrained": (lambda: flatnext.from_pretrained("resnext29-cifar"), "did you mean resnext29-cifar10?"),
    "pretrained_info": (lambda: flatnext.pretrained_info("resnet18"), "(one of resnext29-cifar10, resnext29-cifar10-"),
    "load": (lambda: flatnext.load("resnext29-cifer10"), "did you mean resnext29-cifar10?"),
    "load checkpoint": (lambda: flatnext.load("resnext29-cifar10", checkpoint="beste"), "did you mean best?"),
    "load device": (lambda: flatnext.load("resnext29-cifar10", device="gpu"), "did you mean cuda?"),
    "load_weights": (lambda: flatnext.load_weights("resnext29-cifer10", None), "did you mean resnext29-cifar10?"),
    "evaluate split": (lambda: flatnext.evaluate("x", split="tests"), "did you mean test?"),
    "evaluate": (lambda: flatnext.evaluate("resnext29-cifer10"), "did you mean resnext29-cifar10?"),
    "evaluate overrides": (
        lambda: flatnext.evaluate("resnext29-cifar10", overrides={"imgsz": 32}),
        "there is no setting 'imgsz': it is called image_size",
    ),
    "train track": (lambda: flatnext.train(flatnext.recipe("quick"), "new", track=["wand"]), "did you mean wandb?"),
    "train by the name of a recipe": (
        lambda: flatnext.train("quick", "new"),
        "config is 'quick': give a Config, such as flatnext.recipe('quick')",
    ),
    "export": (lambda: export("resnext29-cifar10", "onx"), "did you mean onnx?"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_name_that_is_unknown(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets").mkdir()
    make, message = CALLS[call]
    with pytest.raises(InputError) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()
