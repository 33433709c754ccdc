"""Weights files of every kind, and files that are refused."""

from __future__ import annotations

import argparse
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from networks import SMALL_RESNEXT, formula, images
from torch import nn

from flatnext.errors import FallbackWarning, InputError
from flatnext.models import ResNeXt, load_weights, resnext29


def baseline_checkpoint(model, prefix=""):
    return {"model": {prefix + k: v for k, v in model.state_dict().items()}, "acc": 90.3, "epoch": 65}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_the_baselines_code_loads(tmp_path, prefix, zipped):
    source, model = formula(resnext29()), resnext29()
    path = tmp_path / "ckpt.pth"
    torch.save(baseline_checkpoint(source, prefix), path, _use_new_zipfile_serialization=zipped)
    assert load_weights(path, model) == {"acc": 90.3, "epoch": 65}
    x = images(2, 8, torch.float32)
    assert torch.equal(source.eval()(x), model.eval()(x))


def test_a_bare_state_dict_loads(tmp_path):
    source, model = formula(ResNeXt(**SMALL_RESNEXT)), ResNeXt(**SMALL_RESNEXT)
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    assert load_weights(tmp_path / "weights.pt", model) == {}
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in source.state_dict().items())


def test_safetensors_load_with_their_metadata_into_the_models_own_dtype_and_layout(tmp_path):
    source = formula(ResNeXt(**SMALL_RESNEXT))
    path = tmp_path / "last.safetensors"
    safetensors.torch.save_file(source.state_dict(), path, {"epoch": "3"})
    model = ResNeXt(**SMALL_RESNEXT).double().to(memory_format=torch.channels_last)
    assert load_weights(path, model) == {"epoch": "3"}
    assert all(torch.equal(value, model.state_dict()[name].to(value)) for name, value in source.state_dict().items())
    weight = model.get_submodule("layer1.0.conv2").weight
    assert weight.dtype == torch.float64
    assert weight.is_contiguous(memory_format=torch.channels_last)


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


FORMS = {
    **{prefix: partial(prefixed, prefix) for prefix in ("module.", "_orig_mod.", "model.", "net.", "model._orig_mod.")},
    "module._orig_mod.module.": partial(prefixed, "module._orig_mod.module."),
    "averaged": lambda state: {"n_averaged": torch.tensor(5), **prefixed("module.", state)},
    **{
        f"under {key}": lambda state, key=key: {key: prefixed("module.", state), "epoch": 3}
        for key in ("net", "model", "state_dict", "model_state_dict", "ema")
    },
    "within the average": lambda state: {"ema": {"decay": 0.9, "module": state}, "epoch": 3},
    "beside NumPy's numbers": lambda state: {
        **{"model": state, "epoch": np.int64(3), "acc": np.float64(0.5), "loss": np.float32(0.25)},
        "done": np.bool_(True),
    },
    "beside the command line": lambda state: {"state_dict": state, "args": argparse.Namespace(lr=0.1), "epoch": 3},
    "beside another model": lambda state: {"model": state, "ema": {"shadow": torch.zeros(3)}},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_the_same_weights_load_in_whatever_form_a_loop_saves_them(tmp_path, form, zipped):
    source, model = formula(ResNeXt(**SMALL_RESNEXT)), ResNeXt(**SMALL_RESNEXT)
    torch.save(FORMS[form](source.state_dict()), tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    beside = load_weights(tmp_path / "x.pt", model)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in source.state_dict().items())
    if "NumPy" in form:
        assert beside == {"epoch": 3, "acc": 0.5, "loss": 0.25, "done": True}
        assert {type(value) for value in beside.values()} == {int, float, bool}


def test_the_counters_of_a_profiler_are_left_out_and_said(tmp_path):
    source, model = formula(ResNeXt(**SMALL_RESNEXT)), ResNeXt(**SMALL_RESNEXT)
    counters = {name: torch.zeros(1) for name in ("total_ops", "total_params", "linear.total_ops")}
    torch.save(prefixed("module.", source.state_dict() | counters), tmp_path / "x.pt")
    with pytest.warns(FallbackWarning, match="3 counters of thop left out"):
        load_weights(tmp_path / "x.pt", model)
    assert torch.equal(model.linear.weight, source.linear.weight)


def test_a_prefix_of_the_model_itself_stays(tmp_path):
    model = nn.ModuleDict({"net": nn.Linear(2, 2)})
    torch.save(model.state_dict(), tmp_path / "x.pt")
    assert load_weights(tmp_path / "x.pt", model) == {}


class _Call:
    """A pickle of this creates a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class _Type:
    """A pickle of this asks NumPy for a type of nested tuples, which would take it minutes to refuse."""

    def __reduce__(self):
        nested = "f8"
        for _ in range(30):
            nested = (nested, nested)
        return np.dtype, (nested,)


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _damaged(make):
    def write(path, model):
        make(path, model)
        _truncate(path)

    return write


def _state(**changes):
    """Return a writer of the model's state with some entries changed, or left out where the change is None."""

    def write(path, model):
        state = {**model.state_dict(), **{name.replace("__", "."): value for name, value in changes.items()}}
        torch.save({name: value for name, value in state.items() if value is not None}, path)

    return write


def _safetensors(path, model):
    safetensors.torch.save_file(model.state_dict(), path)


WEIGHTS_ERRORS = {
    "missing": (lambda path, model: None, "does not exist"),
    "folder": (lambda path, model: path.mkdir(), "not a regular file"),
    "empty": (lambda path, model: path.touch(), "not a weights file"),
    "text": (lambda path, model: path.write_text("accuracy 90.3 at epoch 65\n"), "not a weights file"),
    "json": (lambda path, model: path.write_text('12345678{"accuracy": 90.3}'), "safetensors"),
    "noise": (lambda path, model: path.write_bytes(np.random.default_rng(0).bytes(5000)), "not a weights file"),
    "zip": (lambda path, model: path.write_bytes(b"PK\3\4" + bytes(500)), "not a weights file"),
    "truncated torch": (_damaged(_state()), "damaged"),
    "truncated safetensors": (_damaged(_safetensors), "truncated"),
    "number": (lambda path, model: torch.save(3, path), "no state dict"),
    "numbers": (lambda path, model: torch.save({"model": {"conv1.weight": 3.0}}, path), "no state dict"),
    "nothing in it": (lambda path, model: torch.save({}, path), "[0-9]+ missing"),
    "missing entry": (_state(linear__bias=None), "1 missing \\(linear.bias\\)"),
    "unexpected entry": (_state(head__bias=torch.zeros(5)), "1 left over \\('head.bias'\\)"),
    "shape": (_state(linear__bias=torch.zeros(7)), r"1 of another shape \(linear.bias \(7,\) instead of \(5,\)\)"),
    "sparse": (_state(linear__bias=torch.zeros(5, device="meta")), "without plain values"),
    "newline in a name": (_state(**{"a\nb": torch.zeros(1)}), "1 left over"),
    "another model": (
        lambda path, model: torch.save(baseline_checkpoint(resnext29()), path),
        r"\('layer1.1.conv1.weight', .* and 111 more\); 62 of another shape \(conv1.weight \(32, 3, 1, 1\) instead of",
    ),
    "another model, safetensors": (
        lambda path, model: safetensors.torch.save_file(ResNeXt(**{**SMALL_RESNEXT, "classes": 6}).state_dict(), path),
        r"2 of another shape \(linear.weight \(6, 32\) instead of \(5, 32\), linear.bias",
    ),
    "a prefix that only some have": (
        lambda path, model: torch.save({f"encoder.{k}": v for k, v in model.state_dict().items()}, path),
        r"missing \(conv1.weight, .*left over \('encoder.conv1.weight'",
    ),
    "nearly all": (_state(linear__bias=None), r"\d+ of \d+ entries fit: 1 missing"),
    "a whole module": (lambda path, model: torch.save(model, path), r"whole pickled module \(.*model.state_dict\(\)"),
    "other keys": (lambda path, model: torch.save({"weights": 3, "epoch": 1}, path), "it has 'weights', 'epoch'"),
    "a type of nested tuples": (lambda path, model: torch.save({"model": _Type()}, path), "not a weights file"),
    "an array of objects": (lambda path, model: torch.save({"a": np.array([{}])}, path), "_reconstruct"),
    "call": (lambda path, model: torch.save({"model": _Call(path.with_name("called"))}, path), "could run code"),
    "plain pickle": (lambda path, model: path.write_bytes(pickle.dumps(_Call(path.with_name("called")))), "run code"),
}


@pytest.mark.parametrize("case", WEIGHTS_ERRORS)
def test_bad_weights_files_are_refused_in_one_line_and_leave_the_model(tmp_path, case):
    write, message = WEIGHTS_ERRORS[case]
    model, path = formula(ResNeXt(**SMALL_RESNEXT)), tmp_path / "weights.pt"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    write(path, formula(ResNeXt(**SMALL_RESNEXT)))
    with pytest.raises(InputError, match=message) as caught:
        load_weights(path, model)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not (tmp_path / "called").exists()
