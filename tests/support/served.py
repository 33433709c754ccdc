"""An ONNX file for tests of the service, made without torch: it tells the colour that most of an image has."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from flatnext.deploy.manifest import KEY, Golden, Manifest
from flatnext.runs.conformal import Conformal

SIZE = 8
CLASSES = ("red", "green", "blue")
SHARPNESS = 20.0
"""A logit is so many times the mean of its colour, from 0 to 1."""


def logits(pixels: np.ndarray) -> np.ndarray:
    """Return what the model says of images (uint8, N x 3 x H x W)."""
    return SHARPNESS * pixels.astype(np.float64).mean((2, 3)) / 255


def colour(red: int, green: int, blue: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    return Image.new("RGB", size, (red, green, blue))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def conformal(images: int = 100) -> Conformal:
    """Return a calibration, by which a class of at least 1 - 0.949 is in the set of 95 %."""
    return Conformal.of([place / 100 for place in range(images)], temperature=1.0, source="images by a formula")


def write_model(path: Path, **changes: object) -> Path:
    """Write the model; `changes` are fields of its manifest."""
    golden = []
    for pixels in (np.full((3, SIZE, SIZE), 40 * place, np.uint8) for place in range(3)):
        pixels[len(golden)] = 200
        golden.append(Golden.of(pixels, logits(pixels[None])[0]))
    values = {"name": "colours", "classes": CLASSES, "image_size": SIZE, "conformal": conformal()}
    manifest = Manifest(**{**values, "golden": tuple(golden), "card": "# Colours", **changes})
    proto = helper.make_model(_graph(len(manifest.classes)), opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(proto, {KEY: manifest.to_json()})
    onnx.save(proto, path)
    return path


def _graph(classes: int) -> onnx.GraphProto:
    weight = np.zeros((3, classes), np.float32)
    weight[range(3), range(3)] = SHARPNESS / 255
    constants = {"weight": weight, "axes": np.array([2, 3]), "channel": np.array([1]), "white": np.float32(255)}
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weight"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ReduceMax", ["pixels", "channel"], ["brightest"], keepdims=0),
        helper.make_node("Div", ["brightest", "white"], ["activation"]),
    ]
    return helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 3, "h", "w"])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", classes]),
            helper.make_tensor_value_info("activation", TensorProto.FLOAT, ["n", "h", "w"]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
