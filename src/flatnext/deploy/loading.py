"""Finding a trained model and making it answer: the classifier of a run, a weights file, an ONNX file or a name."""

from __future__ import annotations

from pathlib import Path

from flatnext.deploy.classifier import Classifier
from flatnext.errors import InputError


def load(path: Path | str, *, checkpoint: str | None = None, device: str = "auto") -> Classifier:
    """Return the classifier of a run folder, a weights file, an ONNX file, or the name of weights that ship.

    Args:
        path: where the model is, or its name; a path that exists wins over a name.
        checkpoint: in a run folder, `last` or `best` (None: `last`).
        device: `auto`, `cpu`, `cuda` ... A model in ONNX runs on the CPU.

    Raises:
        InputError: there is no such file, it is damaged, or it does not say its classes.
    """
    path = Path(path)
    if path.suffix.lower() != ".onnx":
        from flatnext.deploy.torch_model import load_torch  # torch is slow to import, and not needed for ONNX

        return load_torch(path, checkpoint=checkpoint, device=device)
    if checkpoint is not None:
        raise InputError(f"checkpoint is {checkpoint!r}: it is for run folders, and {path} is not one: leave it out")
    if device not in ("auto", "cpu"):
        raise InputError(f"device is {device!r}: a model in ONNX runs on the CPU here: leave it out")
    from flatnext.deploy.onnx_model import OnnxModel

    model = OnnxModel(path)
    manifest = model.manifest
    return Classifier(
        source=path,
        classes=manifest.classes,
        preprocessing=manifest.preprocessing,
        temperature=manifest.temperature,
        conformal=manifest.conformal,
        logits=lambda images: model.predict(images).logits,
    )
