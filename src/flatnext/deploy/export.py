"""From trained weights to a file that others run. An export is proved on real images before it is left on disk."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from flatnext.deploy.export_card import export_card
from flatnext.deploy.export_forms import ENDINGS, FORMS
from flatnext.deploy.export_proof import (
    MAX_LOSS,
    Proof,
    golden_images,
    in_batches,
    prove,
    require_accurate,
    require_faithful,
)
from flatnext.deploy.export_source import read_images, read_source
from flatnext.deploy.manifest import Manifest
from flatnext.errors import InputError, choose
from flatnext.evaluation.conformal import first_half, scores
from flatnext.files import as_file_name
from flatnext.progress import printable
from flatnext.runs.conformal import Conformal
from flatnext.runs.folder import RunFolder
from flatnext.words import counted

IMAGES = 1000
"""Test images that prove an export in float32: logits are compared, so that few are enough."""

IMAGES_INT8 = 2000
"""Those of an export in eight bits: accuracies are compared."""

CALIBRATION = 256
"""Training images that set the scales of eight bits."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What `export` has written and measured: the file or folder, its size, what it says of itself, and the proof."""

    path: Path
    to: str
    bytes: int
    manifest: Manifest
    proof: Proof


def export(
    path: Path | str,
    to: str = "onnx",
    output: Path | str | None = None,
    *,
    checkpoint: str | None = None,
    data_dir: Path | str = ".data",
    test_set: Path | str | None = None,
    images: int | None = None,
    max_loss: float | None = None,
    download: bool = True,
    progress: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Write trained weights in a form that others run, once it has proved itself on real images.

    Args:
        path: a run folder, a weights file, or the name of weights that ship with the package.
        to: `onnx`; `onnx-int8`, calibrated on real training images, and its sets of classes on the images that prove
            it; `torch-export`, a `.pt2` file; or `hub`, a folder for the Hugging Face Hub.
        output: the file or folder to write (default: NAME.onnx, NAME-int8.onnx, NAME.pt2 or NAME-hub here).
        checkpoint: in a run folder, `last` or `best` (None: `last`).
        data_dir: where the data set of the weights lies, or is downloaded to.
        test_set: other images of the same classes to prove it on, as `flatnext.data.read_test_set` reads them. Half of
            them calibrate `onnx-int8`, and the other half proves it.
        images: how many test images to prove it on (default: 1,000, for `onnx-int8` 2,000).
        max_loss: percentage points of accuracy that `onnx-int8` may lose (default: 0.3).
        download: whether a missing data set may be fetched.
        progress: whether to show a download's progress.
        overwrite: replace what is there.

    Raises:
        InputError: weights or images are not there, the file exists, or the export does not answer as the trained
            network does: a logit differs by more than 0.001, a class is another but for a tie, or in eight bits the
            accuracy is lower by more than `max_loss`. Nothing has been written then.
    """
    if to not in FORMS:
        raise InputError(f"to is {to!r}: {choose(to, FORMS)}")
    int8 = to == "onnx-int8"
    if max_loss is not None and not int8:
        raise InputError(f"max_loss is {max_loss}: it is for onnx-int8 alone, as {to} may lose nothing: leave it out")
    source = read_source(path, checkpoint)
    target = Path(f"{as_file_name(source.name)}{ENDINGS[to]}") if output is None else Path(output)
    _check_target(target, to, overwrite)
    real = read_images(
        source,
        images if images is not None else IMAGES_INT8 if int8 else IMAGES,
        CALIBRATION if int8 else 0,
        data_dir=data_dir,
        test_set=test_set,
        download=download,
        progress=progress,
    )
    form = FORMS[to](source, real.calibration)
    logits, labels = in_batches(form.logits, real.proof.images), real.proof.labels.cpu()
    proof = prove(in_batches(source.logits, real.proof.images), logits, labels.numpy(), real.source)
    if int8:
        require_accurate(proof, MAX_LOSS if max_loss is None else max_loss, str(target))
    else:
        require_faithful(proof, str(target))
    manifest = replace(source.manifest(), golden=golden_images(form.logits, real.proof), quantized=int8)
    if int8 and manifest.conformal:  # sets hold what they promise by the scores of the model that answers
        # The others may have fitted the temperature: of any images one half does, by their pixels.
        apart = ~first_half(real.proof)
        values = scores(torch.from_numpy(logits)[apart], labels[apart], manifest.temperature).tolist()
        words = f"{len(values):,} of the {proof.images:,} {real.source}, answered in eight bits"
        conformal = Conformal.of(values, temperature=manifest.temperature, source=words) if values else None
        manifest = replace(manifest, conformal=conformal)
    manifest = replace(manifest, card=export_card(source, to, target.name, proof, own_test=test_set is None))
    return Exported(path=target, to=to, bytes=form.write(target, manifest), manifest=manifest, proof=proof)


def format_exported(exported: Exported) -> str:
    """Return what was measured and written, in lines."""
    manifest, path = exported.manifest, printable(str(exported.path))
    conformal = manifest.conformal
    calibration = (
        f"temperature {manifest.temperature:.3g}, and calibration of {counted(conformal.images, 'image')} for sets"
        if conformal
        else "no temperature, and no calibration for sets: flatnext calibrate adds both to the weights"
    )
    classes = counted(len(manifest.classes), "class")
    lines = [f"{path}: {exported.bytes / 1e6:.2f} MB, {classes}", *exported.proof.lines()]
    return "\n".join([*lines, calibration, *_next(exported.to, path)])


def _next(to: str, path: str) -> list[str]:
    if to == "torch-export":
        return [f"load it by torch.export.load({path!r}).module()"]
    if to == "hub":
        return [f"load it by flatnext.deploy.hub.HubModel.from_pretrained({path!r}); push it with --push USER/NAME"]
    quoted = shlex.quote(str(path))
    return [f"ask it: flatnext predict {quoted} PICTURES; serve it: flatnext serve {quoted}"]


def _check_target(target: Path, to: str, overwrite: bool) -> None:
    if to.startswith("onnx") and target.suffix.lower() != ".onnx":
        raise InputError(f"output is {target}: give a name that ends in .onnx, by which it is known")
    if target.is_dir() != (to == "hub") and target.exists():
        raise InputError(f"{target} is {'a folder' if target.is_dir() else 'no folder'}: give another --output")
    if to == "hub" and RunFolder(target).started():
        raise InputError(f"{target} is a run, whose config.json would be replaced: give another --output")
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists: give another --output, or --overwrite")
