"""The manifest of an exported model: what its file says of itself, in JSON. Without torch."""

from __future__ import annotations

import base64
import binascii
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from flatnext.deploy.pixels import Preprocessing
from flatnext.errors import InputError
from flatnext.pictures import Resize
from flatnext.runs.conformal import Conformal
from flatnext.schema import dump, parse

KEY = "flatnext"
"""The key of the manifest in the metadata of an ONNX file."""

FORMAT = 1
"""The version of the format that is written. A reader refuses later ones."""


@dataclass(frozen=True, kw_only=True)
class Golden:
    """An image that the model was asked about when it was exported, and its logits: the same come out ever after.

    `png` is a PNG file in base64, of `image_size` pixels a side; `logits` are those of the exported model itself.
    """

    png: str
    logits: tuple[float, ...]

    @classmethod
    def of(cls, pixels: np.ndarray, logits: np.ndarray) -> Golden:
        """Return the golden image of uint8 `pixels` (C x H x W) and its `logits` (K)."""
        buffer = io.BytesIO()
        Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, format="PNG")
        return cls(png=base64.b64encode(buffer.getvalue()).decode(), logits=tuple(map(float, logits)))

    def pixels(self) -> np.ndarray:
        """Return the image as uint8, C x H x W. `InputError`: it is damaged."""
        try:
            with Image.open(io.BytesIO(base64.b64decode(self.png, validate=True)), formats=["PNG"]) as image:
                pixels = np.asarray(image)
        except (OSError, SyntaxError, binascii.Error, ValueError, Image.DecompressionBombError):
            raise InputError("a golden image is damaged: export the model again") from None
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
            raise InputError("a golden image is neither grey nor RGB: export the model again")
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What the file of an exported model says: enough to use it without anything else.

    Args:
        name: of the model, as people write it.
        classes: `classes[i]` is the name of logit i.
        image_size: pixels a side of the images that it was trained on. Images of another size are resized in the model.
        channels: 1 or 3, of its images.
        resize: how an image that is not square becomes one.
        temperature: what the logits are divided by before the softmax.
        conformal: the calibration of sets with a guaranteed coverage, where there is one.
        card: the model card, in Markdown.
        golden: images with the model's logits, by which a file is checked when it is loaded.
        quantized: whether convolutions compute in eight bits.
        format: the version of this format.
    """

    name: str
    classes: tuple[str, ...]
    image_size: int
    channels: Literal[1, 3] = 3
    resize: Resize = "crop"
    temperature: float = 1.0
    conformal: Conformal | None = None
    card: str = ""
    golden: tuple[Golden, ...] = ()
    quantized: bool = False
    format: int = FORMAT

    @property
    def preprocessing(self) -> Preprocessing:
        """What becomes of an image before the model."""
        return Preprocessing(image_size=self.image_size, channels=self.channels, resize=self.resize)

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.classes or self.image_size < 1 or self.temperature <= 0:
            raise InputError("it has no classes, or an image size or temperature that is not positive")
        if any(len(golden.logits) != len(self.classes) for golden in self.golden):
            raise InputError("a golden image has another number of logits than there are classes")

    def to_json(self) -> str:
        """Return the manifest as JSON, for `read_manifest`."""
        return json.dumps(dump(self), allow_nan=False)


def read_manifest(text: str, source: Path | str) -> Manifest:
    """Return what `Manifest.to_json` wrote. `InputError`, with `source` first: it is damaged, or of a later version."""
    try:
        content = json.loads(text)
        later = isinstance(content, dict) and isinstance(content.get("format"), int) and content["format"] > FORMAT
        if not later:
            return parse(Manifest, content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: its manifest is damaged ({error}): export the model again") from None
    raise InputError(
        f"{source} was exported by a later version of flatnext (format {content['format']}): install that version"
    )
