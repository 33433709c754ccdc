"""Models in the layout of the Hugging Face Hub, and torch.hub, without a network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from packed import one_line
from places import REPOSITORY

import flatnext
from flatnext.cli import main
from flatnext.deploy.calibrate import calibrate
from flatnext.deploy.export import export
from flatnext.deploy.hub import HubModel
from flatnext.errors import InputError
from flatnext.models import read_weights


@pytest.fixture(scope="module")
def hub(run, tmp_path_factory):
    return export(run, "hub", tmp_path_factory.mktemp("hub") / "model", images=50).path


@pytest.fixture(scope="module")
def digits():
    return flatnext.load_data("digits").test


def test_the_folder_has_the_hubs_layout(hub):
    assert sorted(path.name for path in hub.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    card = huggingface_hub.ModelCard.load(hub / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("flatnext", "image-classification")
    assert card.data.eval_results[0].metric_type == "accuracy"
    assert json.loads((hub / "config.json").read_text())["image_size"] == 8


def test_a_model_is_loaded_saved_and_loaded_again(run, hub, digits, tmp_path, capsys):
    wanted = flatnext.load_predictor(run)(digits.images).numpy()
    model = HubModel.from_pretrained(hub)
    assert (model.classes, model.image_size, model.training) == (flatnext.pretrained_info(run).classes, 8, False)
    model.save_pretrained(tmp_path / "again")
    again = HubModel.from_pretrained(tmp_path / "again")
    for each in (model, again):
        with torch.inference_mode():
            np.testing.assert_allclose(each(digits.images).numpy(), wanted, atol=1e-5)
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == json.loads((hub / "config.json").read_text())


def test_the_folder_is_a_weights_file_too(run, hub, tmp_path, capsys):
    names = ("classes", "config", "conformal", "normalization", "image_size")
    one, other = (vars(flatnext.pretrained_info(path)) for path in (run, hub))
    assert {name: one[name] for name in names} == {name: other[name] for name in names}
    assert flatnext.evaluate(hub)["accuracy"] == flatnext.evaluate(run)["accuracy"]
    HubModel.from_pretrained(hub).save_pretrained(tmp_path / "again")
    assert flatnext.pretrained_info(tmp_path / "again").conformal == one["conformal"]


def test_a_calibration_is_kept_with_its_weights_alone(hub, digits, tmp_path):
    folder = shutil.copytree(hub, tmp_path / "hub")
    made = calibrate(folder, split="test").conformal
    model = HubModel.from_pretrained(folder)
    model.save_pretrained(tmp_path / "same")
    metadata = [read_weights(path / "model.safetensors")[1] for path in (folder, tmp_path / "same")]
    assert metadata[0] == metadata[1]
    assert flatnext.pretrained_info(tmp_path / "same").conformal == made
    with torch.no_grad():
        model.network.linear.bias += 1
    model.save_pretrained(tmp_path / "other")
    assert flatnext.pretrained_info(tmp_path / "other").conformal is None
    assert "conformal" not in json.loads((tmp_path / "other" / "config.json").read_text())


def test_the_card_is_kept_with_its_weights_alone(hub, tmp_path):
    model = HubModel.from_pretrained(hub)
    model.save_pretrained(tmp_path / "same")
    assert (tmp_path / "same" / "README.md").read_text() == (hub / "README.md").read_text()
    with torch.no_grad():
        model.network.linear.bias += 1
    model.save_pretrained(tmp_path / "other")
    assert "accuracy" not in (tmp_path / "other" / "README.md").read_text()
    (shutil.copytree(hub, tmp_path / "bare") / "README.md").unlink()
    HubModel.from_pretrained(tmp_path / "bare").save_pretrained(tmp_path / "again")


def test_the_card_of_a_model_on_the_hub_is_fetched(hub, tmp_path, monkeypatch):
    """The hub is the folder here, from which files are fetched by their names."""
    fetched = []

    def fetch(repo_id, filename, **options):
        fetched.append((repo_id, filename))
        return str(hub / filename)

    for place in ("huggingface_hub.hub_mixin", "huggingface_hub"):
        monkeypatch.setattr(f"{place}.hf_hub_download", fetch)
    HubModel.from_pretrained("user/name").save_pretrained(tmp_path / "same")
    assert ("user/name", "README.md") in fetched
    assert (tmp_path / "same" / "README.md").read_text() == (hub / "README.md").read_text()


def test_ctrl_c_within_the_writing_leaves_nothing(run, tmp_path, monkeypatch):
    def interrupted(path, content):
        raise KeyboardInterrupt

    monkeypatch.setattr("flatnext.deploy.export_forms.write_atomically", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(run, "hub", tmp_path / "new", images=50)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("images", [torch.rand(2, 3, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8)])
def test_images_of_another_kind_are_refused(hub, images):
    with pytest.raises(InputError, match=r"give torch.uint8 from 0 to 255, N x 3 x H x W"):
        HubModel.from_pretrained(hub)(images)


def test_weights_of_another_model_are_refused(hub, tmp_path, capsys):
    shutil.copytree(hub, tmp_path / "model")
    config = json.loads((hub / "config.json").read_text())
    config["run_config"]["model"]["stem"] = 16
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="of another shape"):
        HubModel.from_pretrained(tmp_path / "model")


def test_weights_are_pulled_by_address(hub, monkeypatch, digits):
    asked = []

    def fetch(repository, file, *, revision=None):
        asked.append((repository, file, revision))
        return str(hub / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    model = flatnext.from_pretrained("hf://somebody/some-model")
    info = flatnext.pretrained_info(Path("hf://somebody/some-model@v1.0"))  # as the command line gives it
    assert asked == [
        ("somebody/some-model", "model.safetensors", None),
        ("somebody/some-model", "model.safetensors", "v1.0"),
    ]
    assert model(info.normalize(digits.images[:2])).shape == (2, 10)
    with pytest.raises(InputError, match="checkpoint is 'best': it is for run folders"):
        flatnext.evaluate("hf://somebody/some-model", checkpoint="best")
    assert len(asked) == 2


@pytest.mark.parametrize("address", ["hf://", "hf://name", "hf://a/b/c", "hf://a/b@", "hf://a b/c"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(InputError, match="give hf://user/name"):
        flatnext.from_pretrained(address)


def test_a_hub_that_is_not_reached_is_one_line(monkeypatch):
    def fail(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network\nand more")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(InputError, match="cannot be fetched") as caught:
        flatnext.from_pretrained("hf://somebody/some-model")
    assert one_line(caught)


class FakeApi:
    """Stands for the Hub: notes what is asked of it, and refuses the user `other`."""

    calls: list = []  # noqa: RUF012

    def create_repo(self, repository, **settings):
        if repository.startswith("other/"):
            raise huggingface_hub.errors.HFValidationError("403 Forbidden\nmore")
        self.calls.append((repository, settings))
        return f"https://hub/{repository}"

    def upload_folder(self, *, repo_id, folder_path, **_):
        self.calls.append((repo_id, sorted(path.name for path in folder_path.iterdir())))


def test_a_model_is_pushed(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    monkeypatch.setattr(FakeApi, "calls", [])
    arguments = ["export", str(run), "--to", "hub", "--output", str(tmp_path / "model"), "--images", "20"]
    assert main([*arguments, "--push", "me/digits", "--private"]) == 0
    assert FakeApi.calls == [
        ("me/digits", {"private": True, "exist_ok": True}),
        ("me/digits", ["README.md", "config.json", "model.safetensors"]),
    ]
    assert "pushed to https://hub/me/digits" in capsys.readouterr().out
    assert main([*arguments, "--overwrite", "--push", "other/digits"]) == 2
    message = capsys.readouterr().err
    assert "other/digits cannot be pushed (403 Forbidden): the files are in" in message
    assert (tmp_path / "model" / "config.json").exists()
    assert main([*arguments[:2], "--to", "onnx", "--push", "me/digits"]) == 2
    assert "push is for --to hub" in capsys.readouterr().err


def test_torch_hub_loads_what_ships(digits):
    model = torch.hub.load(str(REPOSITORY), "resnext29_cifar10", source="local", trust_repo=True)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    info = flatnext.pretrained_info("resnext29-cifar10")
    with torch.inference_mode():
        wanted = flatnext.from_pretrained("resnext29-cifar10")(info.normalize(images))
        np.testing.assert_allclose(model(images).numpy(), wanted.numpy(), atol=1e-5)
    assert (model.classes, model.training) == (info.classes, False)
    new = torch.hub.load(str(REPOSITORY), "network", "resnext11", classes=3, source="local", trust_repo=True)
    assert new(torch.zeros(1, 3, 8, 8)).shape == (1, 3)
