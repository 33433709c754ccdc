"""From trained weights to a file that others run. An export is proved on real images before it is left on disk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from flatnext.deploy.export_graph import onnx_model, with_manifest
from flatnext.deploy.export_proof import (
    MAX_LOSS,
    Proof,
    golden_images,
    in_batches,
    prove,
    require_faithful,
)
from flatnext.deploy.export_source import read_images, read_source
from flatnext.deploy.manifest import Manifest
from flatnext.deploy.onnx_model import INPUT, OnnxModel, session
from flatnext.errors import InputError
from flatnext.files import write_atomically

IMAGES = 1000
CALIBRATION = 512


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What `export` has written and measured."""

    path: Path
    manifest: Manifest
    proof: Proof
    bytes: int


def export(
    path: Path | str,
    to: str = "onnx",
    output: Path | str | None = None,
    *,
    checkpoint: str | None = None,
    data_dir: Path | str = ".data",
    test_set: Path | str | None = None,
    images: int = IMAGES,
    max_loss: float = MAX_LOSS,
    download: bool = True,
    progress: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Write trained weights in a form that others run, once it has proved itself on real images.

    Args:
        path: a run folder, a weights file, or the name of weights that ship with the package.
        to: `onnx`.
        output: the file to write; by default NAME.onnx in the current folder.
        checkpoint: in a run folder, `last` or `best` (None: `last`).
        data_dir: where the data set of the weights lies, or is downloaded to.
        test_set: other images of the same classes to prove it on, as `flatnext.data.read_test_set` reads them.
        images: how many test images to prove it on.
        max_loss: percentage points of accuracy that an export in eight bits may lose.
        download: whether a missing data set may be fetched.
        progress: whether to show a download's progress.
        overwrite: replace the file that is there.

    Raises:
        InputError: weights or images are not there, the file exists, or the export does not answer as the network does.
            Nothing has been written then.
    """
    source = read_source(path, checkpoint)
    target = Path(output) if output is not None else Path(f"{source.name}.onnx")
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists: give another --output, or --overwrite")
    real = read_images(source, images, 0, data_dir=data_dir, test_set=test_set, download=download, progress=progress)
    model = onnx_model(source.network(), source.manifest())
    content = with_manifest(model, source.manifest())
    running = session(content, target)

    def logits(pixels):  # type: ignore[no-untyped-def]
        return running.run(["logits"], {INPUT: pixels})[0]

    proof = prove(in_batches(source.logits, real.proof.images), logits, real.proof, real.source)
    require_faithful(proof, str(target))
    manifest = replace(source.manifest(), golden=golden_images(logits, real.proof))
    content = with_manifest(model, manifest)
    write_atomically(target, content)
    OnnxModel(target).check_golden()
    return Exported(path=target, manifest=manifest, proof=proof, bytes=len(content))


def format_exported(exported: Exported) -> str:
    """Return what was measured and written, in lines."""
    return "\n".join([f"{exported.path}: {exported.bytes / 1e6:.2f} MB", *exported.proof.lines()])
