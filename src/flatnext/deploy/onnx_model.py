"""A model that was exported to ONNX, run by ONNX Runtime. Without torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flatnext.deploy.manifest import KEY, Manifest, read_manifest
from flatnext.errors import InputError
from flatnext.files import open_regular
from flatnext.versions import import_extra

INPUT = "images"
OUTPUTS = ("logits", "probabilities", "activation")

MOST_BYTES = 500_000_000
"""A larger file is none of ours: networks here have at most some millions of parameters."""

TOLERANCE = 1e-3
"""By how much a golden image's logits may differ: other kernels round otherwise."""

TOLERANCE_INT8 = 1.0
"""The same of a model in eight bits, where a CPU without int8 dot products may saturate."""


class Answer(NamedTuple):
    """What a model says of N images and K classes, in float32.

    `logits` (N x K) are before the temperature, `probabilities` (N x K) after it. `activation` (N x h x w, from 0 to 1)
    is the class activation map of the likeliest class: where in the image there is what speaks for it.
    """

    logits: np.ndarray
    probabilities: np.ndarray
    activation: np.ndarray


class OnnxModel:
    """An exported model: `OnnxModel("model.onnx").predict(images)`.

    Args:
        path: a file of `flatnext export --to onnx` or `onnx-int8`.
        threads: that compute one batch; by default as many as the machine has cores.

    Attributes:
        path: the file.
        manifest: what it says of itself: classes, image size, card and so on.

    Raises:
        InputError: it is missing, damaged, or no model of this package; or ONNX Runtime is not installed.
    """

    def __init__(self, path: Path | str, *, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise InputError(f"threads is {threads}: give at least 1")
        self.path = Path(path)
        self.session = session(_read(self.path), self.path, threads=threads)
        self.manifest: Manifest = _manifest(self.session, self.path)

    def predict(self, images: np.ndarray) -> Answer:
        """Return the answer for `images` (uint8, N x C x H x W), which are resized where they have another size.

        Any number of threads may call it at the same time. `InputError`: type or shape do not fit.
        """
        channels = self.manifest.channels
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != channels or 0 in images.shape[1:]:
            raise InputError(f"images are {images.dtype} {images.shape}: give uint8, N x {channels} x H x W")
        if not len(images):  # not every operator takes an empty batch
            one = self.predict(np.zeros((1, channels, self.manifest.image_size, self.manifest.image_size), np.uint8))
            return Answer(*(values[:0] for values in one))
        return Answer(*self.session.run(list(OUTPUTS), {INPUT: images}))

    def check_golden(self) -> float:
        """Ask the model about its golden images, and return the largest difference from the logits that it had.

        `InputError`: there are none, or the answer is another than when it was exported.
        """
        golden = self.manifest.golden
        if not golden:
            raise InputError(f"{self.path} has no golden images to check it by: export the model again")
        expected = np.array([image.logits for image in golden], dtype=np.float32)
        try:
            logits = self.predict(np.stack([image.pixels() for image in golden])).logits
        except ValueError as error:
            raise InputError(f"{self.path}: its golden images do not fit ({error}): export the model again") from None
        difference = float(np.abs(logits - expected).max())
        if not difference <= (TOLERANCE_INT8 if self.manifest.quantized else TOLERANCE):
            raise InputError(
                f"{self.path} does not answer as it did when it was exported (a logit of a golden image differs by "
                f"{difference:.3g}): copy the file again, or use another version of ONNX Runtime"
            )
        return difference


def session(content: bytes, source: Path | str, *, threads: int | None = None) -> Any:
    """Return ONNX Runtime's session of the content of a file, on the CPU. `InputError`: it cannot be loaded."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it is read when the library is imported
    runtime = import_extra("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a class of its own for each kind, without a common base
        raise InputError(f"{source} is no ONNX model that can be run ({_first_line(error)}): export it again") from None


def _read(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: give an .onnx file of flatnext export --to onnx") from None
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): make it readable") from error
    if len(content) > MOST_BYTES:
        raise InputError(f"{path} is larger than {MOST_BYTES // 10**6} MB: give a file of flatnext export --to onnx")
    return content


def _manifest(session: Any, path: Path) -> Manifest:
    """Return the manifest of a loaded file, whose inputs and outputs are then those of this package."""
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    if text is None:
        raise InputError(f"{path} is an ONNX model of another program: give a file of flatnext export --to onnx")
    manifest = read_manifest(text, path)
    inputs = [(value.name, value.type) for value in session.get_inputs()]
    if inputs != [(INPUT, "tensor(uint8)")] or [value.name for value in session.get_outputs()] != list(OUTPUTS):
        raise InputError(f"{path} was changed after its export: its inputs or outputs are others: export it again")
    return manifest


def _first_line(error: Exception) -> str:
    text = str(error).partition("\n")[0]
    return text if len(text) <= 120 else f"{text[:120]}..."
