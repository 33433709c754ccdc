"""Loading an exported file: what is accepted, what is refused, and that no torch is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from exported import SMALL, exported, manifest_of, trained, written
from onnx import helper
from packed import one_line
from PIL import Image

from flatnext.deploy import onnx_model
from flatnext.deploy.export_graph import with_manifest
from flatnext.deploy.manifest import KEY, Golden, Manifest, read_manifest
from flatnext.deploy.onnx_model import OnnxModel
from flatnext.errors import InputError
from flatnext.runs.conformal import Conformal

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)


@pytest.fixture(scope="module")
def graph():
    return exported(trained(SMALL["resnext"]), manifest_of())[1]


@pytest.fixture
def golden(graph, tmp_path):
    """Return a manifest with golden images."""
    logits = written(graph, manifest_of(), tmp_path / "plain.onnx").predict(IMAGES).logits
    return replace(manifest_of(), golden=tuple(map(Golden.of, IMAGES, logits)))


def test_a_manifest_comes_back(golden):
    conformal = Conformal.of([0.1, 0.5, 0.9], temperature=1.5, source="three images")
    manifest = replace(golden, temperature=1.5, conformal=conformal, card="# Card\n", resize="pad", quantized=True)
    assert read_manifest(manifest.to_json(), "file") == manifest
    np.testing.assert_array_equal(np.stack([image.pixels() for image in manifest.golden]), IMAGES)
    grey = Golden.of(IMAGES[0, :1], np.zeros(4))
    np.testing.assert_array_equal(grey.pixels(), IMAGES[0, :1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "later version"),
        ({"classes": []}, "no classes"),
        ({"classes": 3}, "damaged"),
        ({"temperature": 0}, "damaged"),
        ({"channels": 2}, "channels"),
        ({"golden": [{"png": "x", "logits": [1.0]}]}, "number of logits"),
    ],
)
def test_a_damaged_or_later_manifest_is_refused(golden, change, message):
    content = {**json.loads(golden.to_json()), **change}
    with pytest.raises(InputError, match=message) as caught:
        read_manifest(json.dumps(content), "model.onnx")
    assert one_line(caught)
    assert str(caught.value).startswith("model.onnx")


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_a_manifest_that_is_no_json_is_refused(text):
    with pytest.raises(InputError, match="damaged") as caught:
        read_manifest(text, "model.onnx")
    assert one_line(caught)


def test_golden_images_are_checked(graph, golden, tmp_path):
    assert written(graph, golden, tmp_path / "model.onnx").check_golden() < 1e-5
    other = exported(trained(SMALL["resnext"], seed=1), golden)[1]
    with pytest.raises(InputError, match="does not answer as it did"):
        written(other, golden, tmp_path / "other.onnx").check_golden()
    with pytest.raises(InputError, match="no golden images"):
        written(graph, manifest_of(), tmp_path / "none.onnx").check_golden()
    broken = replace(golden, golden=tuple(replace(image, png="AAAA") for image in golden.golden))
    with pytest.raises(InputError, match="golden image is damaged"):
        written(graph, broken, tmp_path / "broken.onnx").check_golden()


@pytest.mark.parametrize("images", [IMAGES[0], IMAGES.astype(np.float32), IMAGES[:, :1], IMAGES[:, :, :0]])
def test_images_that_do_not_fit_are_refused(graph, images, tmp_path):
    with pytest.raises(InputError, match="give uint8, N x 3 x H x W"):
        written(graph, manifest_of(), tmp_path / "model.onnx").predict(images)


def foreign(input_name=None):
    """Return the bytes of a valid ONNX file that flatnext did not export, or that was changed after it had."""
    value = helper.make_tensor_value_info
    name = input_name or "x"
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], ["logits"])],
        "other",
        [value(name, onnx.TensorProto.UINT8, ["N"])],
        [value("logits", onnx.TensorProto.UINT8, ["N"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    if input_name:
        helper.set_model_props(model, {KEY: manifest_of().to_json()})
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no ONNX model"),
        (b"\x89PNG\r\n\x1a\n", "no ONNX model"),
        (os.urandom(10_000), "no ONNX model"),
        (foreign(), "of another program"),
        (foreign("images"), "changed after its export"),
    ],
    ids=["empty", "picture", "noise", "foreign", "changed"],
)
def test_what_is_no_model_of_ours_is_refused(content, message, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        OnnxModel(path)
    assert one_line(caught)
    assert str(path) in str(caught.value)


def test_a_truncated_file_is_refused(graph, tmp_path):
    content = with_manifest(graph, manifest_of())
    path = tmp_path / "model.onnx"
    for share in (0.1, 0.5, 0.9, 0.999):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(InputError) as caught:
            OnnxModel(path)
        assert one_line(caught)


def test_a_pipe_a_folder_and_a_file_too_large_are_refused(graph, tmp_path, monkeypatch):
    pipe = tmp_path / "pipe.onnx"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(InputError, match="not a regular file"):
            OnnxModel(path)
    with pytest.raises(InputError, match=r"does not exist: give an .onnx file"):
        OnnxModel(tmp_path / "missing.onnx")
    path = tmp_path / "model.onnx"
    path.write_bytes(with_manifest(graph, manifest_of()))
    with pytest.raises(InputError, match="threads is 0"):
        OnnxModel(path, threads=0)
    monkeypatch.setattr(onnx_model, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match="larger than"):
        OnnxModel(path)


def test_a_missing_onnx_runtime_is_named(graph, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(with_manifest(graph, manifest_of()))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"pip install '\.\[export\]'"):
        OnnxModel(path)


def test_a_folder_of_pictures_needs_no_torch(graph, golden, tmp_path):
    written(graph, golden, tmp_path / "model.onnx")
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "a.png")
    code = "import sys; sys.modules['torch'] = None; from flatnext.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "predict", tmp_path / "model.onnx", tmp_path / "pictures"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1), done.stderr


def test_an_answer_needs_no_torch(graph, golden, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(with_manifest(graph, golden))
    code = (
        "import sys; from flatnext.deploy.onnx_model import OnnxModel; OnnxModel(sys.argv[1]).check_golden(); "
        "import os; print('torch' in sys.modules, 'onnx' in sys.modules, os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    command = [sys.executable, "-c", code, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.split() == ["False", "False", "1"]


def test_the_schema_has_defaults_for_what_may_be_left_out():
    assert read_manifest('{"name": "m", "classes": ["a"], "image_size": 8}', "f") == Manifest(
        name="m", classes=("a",), image_size=8
    )
