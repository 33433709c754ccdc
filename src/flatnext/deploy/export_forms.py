"""The forms of an export: each is made in memory, asked there, and written once it has proved itself."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors.torch
import torch

from flatnext.data import Split
from flatnext.deploy.export_graph import onnx_model, with_manifest
from flatnext.deploy.export_int8 import quantized
from flatnext.deploy.export_source import Source
from flatnext.deploy.manifest import Manifest
from flatnext.deploy.onnx_model import INPUT, OUTPUTS, session
from flatnext.errors import InputError
from flatnext.files import write_atomically, write_output
from flatnext.models.weights import without_state

MANIFEST = "manifest.json"
"""The name of the manifest in a `.pt2` file."""


class Form(Protocol):
    """An export in memory."""

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return the logits of uint8 images (N x C x H x W), by the runtime that it is for."""

    def write(self, target: Path, manifest: Manifest) -> int:
        """Write it with its manifest, each file whole or not at all, and return its size in bytes."""


class Onnx:
    """The network as an ONNX file, in float32."""

    def __init__(self, source: Source, calibration: Split) -> None:
        self.model = self.graph(source, calibration)
        self.session = session(self.model.SerializeToString(), source.name)

    def graph(self, source: Source, calibration: Split) -> Any:
        """Return the graph; `calibration` is for those that need real images."""
        return onnx_model(source.network(), source.manifest())

    def logits(self, images: np.ndarray) -> np.ndarray:
        """See `Form`."""
        return self.session.run([OUTPUTS[0]], {INPUT: images})[0]

    def write(self, target: Path, manifest: Manifest) -> int:
        """See `Form`."""
        return _write(target, with_manifest(self.model, manifest))


class OnnxInt8(Onnx):
    """The same in eight bits."""

    def graph(self, source: Source, calibration: Split) -> Any:
        """See `Onnx`."""
        return quantized(super().graph(source, calibration), calibration.images.contiguous().numpy())


class TorchExport:
    """The network as a `.pt2` file of `torch.export`: images of its size, as many as one likes."""

    def __init__(self, source: Source, calibration: Split) -> None:
        manifest = source.manifest()
        example = torch.zeros(2, manifest.channels, manifest.image_size, manifest.image_size, dtype=torch.uint8)
        shapes = {INPUT: {0: torch.export.Dim("N", min=1)}}
        self.program = torch.export.export(source.network(), (example,), dynamic_shapes=shapes)
        # What is asked is what the file gives back.
        self.module = torch.export.load(io.BytesIO(self.content(manifest))).module()

    def content(self, manifest: Manifest) -> bytes:
        """Return the content of the file."""
        buffer = io.BytesIO()
        torch.export.save(self.program, buffer, extra_files={MANIFEST: manifest.to_json()})
        return buffer.getvalue()

    def logits(self, images: np.ndarray) -> np.ndarray:
        """See `Form`."""
        with torch.inference_mode():
            return self.module(torch.from_numpy(images))[0].numpy()

    def write(self, target: Path, manifest: Manifest) -> int:
        """See `Form`."""
        return _write(target, self.content(manifest))


class Hub:
    """The weights in a folder of the Hub's layout: `config.json`, `model.safetensors` and the card, `README.md`."""

    def __init__(self, source: Source, calibration: Split) -> None:
        from flatnext.deploy import hub  # huggingface_hub is needed for this form alone

        settings = hub.settings_of(source.origin, source.manifest().image_size)
        metadata = {key: value for key, value in without_state(source.metadata).items() if isinstance(value, str)}
        metadata |= {"name": source.name, "image_size": str(source.manifest().image_size)}
        self.card = hub.CARD
        self.files = {
            hub.CONFIG: json.dumps(settings, indent=1).encode() + b"\n",
            hub.WEIGHTS: safetensors.torch.save({k: v.contiguous() for k, v in source.state.items()}, metadata),
        }
        with tempfile.TemporaryDirectory() as folder:
            for name, content in self.files.items():
                (Path(folder) / name).write_bytes(content)
            with contextlib.redirect_stdout(io.StringIO()):  # it says where it loads from
                self.model = hub.HubModel.from_pretrained(folder)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """See `Form`."""
        with torch.inference_mode():
            return self.model(torch.from_numpy(images)).numpy()

    def write(self, target: Path, manifest: Manifest) -> int:
        """See `Form`. What else is in a folder that is there is left."""
        files = {**self.files, self.card: manifest.card.encode()}
        made = not target.exists()
        try:
            target.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                write_atomically(target / name, content)
        except BaseException as error:  # Ctrl-C too
            if made:
                shutil.rmtree(target, ignore_errors=True)
            if not isinstance(error, (OSError, InputError)):
                raise
            raise InputError(f"cannot write {target} ({error}): choose another --output") from error
        return sum(map(len, files.values()))


def _write(target: Path, content: bytes) -> int:
    write_output(target, content)
    return len(content)


FORMS: dict[str, Callable[[Source, Split], Form]] = {
    "onnx": Onnx,
    "onnx-int8": OnnxInt8,
    "torch-export": TorchExport,
    "hub": Hub,
}

ENDINGS = {"onnx": ".onnx", "onnx-int8": "-int8.onnx", "torch-export": ".pt2", "hub": "-hub"}
"""What is put after the name of the weights, for the file or folder of each form."""
