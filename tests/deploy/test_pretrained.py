"""Packed weights, loaded by name."""

from __future__ import annotations

import shutil
import socket
from dataclasses import astuple

import numpy as np
import pytest
import safetensors.torch
import torch
from packed import CONFIG, NAME, one_line
from tiny import tiny

import flatnext
from flatnext import models
from flatnext.deploy.pack import pack
from flatnext.errors import InputError
from flatnext.training import train


@pytest.fixture
def digits():
    return flatnext.load_data("digits").test.images


def test_the_model_has_the_runs_weights_rounded_to_half_precision(run, folder, monkeypatch):
    def refuse(*_):
        raise AssertionError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    state = torch.get_rng_state()
    model = flatnext.from_pretrained(NAME)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(model) is type(models.build(CONFIG.model, 10))
    assert not model.training
    own = safetensors.torch.load_file(run / "last.safetensors")
    assert own.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        wanted = own[name].numpy()
        if wanted.ndim >= 2:
            wanted = wanted.astype(np.float16).astype(np.float32)
        assert value.dtype == own[name].dtype
        np.testing.assert_array_equal(value.numpy(), wanted)
    stored = safetensors.torch.load_file(folder / f"{NAME}.safetensors")
    assert {value.dtype for value in stored.values() if value.ndim >= 2} == {torch.float16}


def test_info_is_the_runs(run, folder):
    info, digits = flatnext.pretrained_info("resnext11-digits"), flatnext.load_data("digits")
    assert info == flatnext.pretrained_info(NAME)
    assert info.config == CONFIG
    assert (info.classes, info.normalization, info.image_size) == (digits.classes, digits.normalization, 8)
    assert info.path == folder / f"{NAME}.safetensors"
    with safetensors.safe_open(info.path, "pt") as file:
        assert "state" not in file.metadata()
    images = digits.test.images[:4]
    mean, std = (np.reshape(values, (1, 3, 1, 1)) for values in astuple(info.normalization))
    wanted = (images.numpy() / 255 - mean) / std
    np.testing.assert_allclose(info.normalize(images).numpy(), wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match=r"images are torch.uint8: normalise them, by pretrained_info"):
        flatnext.from_pretrained(NAME)(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(InputError, match=r"give torch\.uint8"):
        info.normalize(images.float())


def test_the_short_name_is_the_most_accurate(run, packed, folder, tmp_path):
    other = tmp_path / "other"
    train(tiny(epochs=1, learning_rate=0.001), other)
    for name in ("resnext11-digits-a", "resnext11-digits-z"):
        pack(other, name, folder, checkpoint="best")
    entries = models.shipped()["resnext11-digits"]
    assert [entry.name for entry in entries] == [NAME, "resnext11-digits-a", "resnext11-digits-z"]
    assert entries[0].accuracy > entries[1].accuracy
    assert flatnext.pretrained_info("resnext11-digits").path.stem == NAME
    assert flatnext.pretrained_info("resnext11-digits-z").path.stem == "resnext11-digits-z"
    pack(run, "resnext11-digits-z", folder, overwrite=True)
    assert [entry.name for entry in models.shipped()["resnext11-digits"]][1:] == ["resnext11-digits-z", entries[1].name]


def test_weights_are_loaded_into_a_model_by_name(folder):
    model = flatnext.from_pretrained(NAME)
    again = models.build(flatnext.pretrained_info(NAME).config.model, 10)
    flatnext.load_weights("resnext11-digits", again)
    for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_path_wins_over_a_name(run, folder):
    shutil.copy(run / "last.safetensors", NAME)
    shutil.copytree(run, "resnext11-digits")
    assert flatnext.pretrained_info(NAME).path.name == NAME
    assert flatnext.pretrained_info(NAME).accuracy is None
    assert flatnext.evaluate("resnext11-digits", checkpoint="best")["weights"] == "resnext11-digits/best.safetensors"
    flatnext.from_pretrained(run)


def test_other_classes_and_channels(folder, digits):
    whole, info = flatnext.from_pretrained(NAME), flatnext.pretrained_info(NAME)
    torch.manual_seed(0)
    model = flatnext.from_pretrained(NAME, classes=3, channels=1)
    torch.manual_seed(0)
    new = models.build(info.config.model, 3, 1).linear
    assert not model.training
    assert torch.equal(model.linear.weight, new.weight)
    images = digits[:4]  # grey, in three channels
    grey = info.normalization.for_channels(1)(images[:, :1])
    colour = info.normalization.for_channels(1).for_channels(3)(images)
    model.linear = whole.linear
    torch.testing.assert_close(model(grey), whole(colour), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_classes": 3}, "from_pretrained has no argument 'num_classes': give classes"),
        ({"classes": 0}, "classes is 0"),
        ({"channels": 4}, "its stem takes 3 channels, and the images have 4"),
    ],
)
def test_models_that_the_weights_do_not_make(folder, arguments, words):
    with pytest.raises(InputError, match=words):
        flatnext.from_pretrained(NAME, **arguments)


@pytest.mark.parametrize("function", [flatnext.from_pretrained, flatnext.pretrained_info, flatnext.evaluate])
def test_an_unknown_name_lists_those_that_ship(function, folder):
    with pytest.raises(InputError, match=f"one of resnext11-digits, {NAME}") as caught:
        function("resnext29-cifar10")
    assert one_line(caught)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="none ship with this version"):
        function("resnext29-cifar10")


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a bit": (f"{NAME}.safetensors", flip, "is damaged"),
    "truncated": (f"{NAME}.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-9]), "is damaged"),
    "missing": (f"{NAME}.safetensors", lambda path: path.unlink(), "No such file"),
    "index": ("index.json", lambda path: path.write_text("{"), "index.json is damaged"),
    "entry": ("index.json", lambda path: path.write_text('{"a": [{"name": "b"}]}'), "index.json is damaged"),
    "list": ("index.json", lambda path: path.write_text("[3]"), "index.json is damaged"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_files_are_named(folder, case):
    name, damage, message = DAMAGE[case]
    damage(folder / name)
    with pytest.raises(InputError, match=message) as caught:
        flatnext.from_pretrained(NAME)
    assert one_line(caught)


def test_a_file_of_unknown_origin_is_refused(folder, tmp_path):
    safetensors.torch.save_file(flatnext.from_pretrained(NAME).state_dict(), tmp_path / "bare.safetensors")
    with pytest.raises(InputError, match=r"use flatnext\.load_weights"):
        flatnext.from_pretrained("bare.safetensors")
    with pytest.raises(InputError, match="checkpoint is 'best'"):
        flatnext.evaluate(NAME, checkpoint="best")
