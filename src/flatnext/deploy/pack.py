"""From a finished run to a small weights file with a model card, evaluated as it is stored."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from flatnext import data, models
from flatnext.config import Config, labelled, recipe_name
from flatnext.deploy.card import model_card
from flatnext.deploy.measure import PRECISION, Measured, measure, near_chance
from flatnext.device import resolve_device
from flatnext.errors import InputError
from flatnext.files import write_atomically, write_json
from flatnext.models import catalog
from flatnext.models.catalog import INDEX, Shipped, best_first, shipped
from flatnext.models.weights import without_state
from flatnext.runs.artifact import require_run
from flatnext.runs.folder import RunFolder
from flatnext.runs.reading import read_run
from flatnext.runs.records import RunRecord, UnfinishedRun
from flatnext.schema import dump
from flatnext.words import counted

MOST_BYTES = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What `pack` has written and measured.

    `load_as` is what `from_pretrained` takes: in the package's own folder the name, elsewhere the path of the file.
    """

    entry: Shipped
    measured: Measured
    files: tuple[Path, ...]
    load_as: str


def pack(
    run: Path | str,
    name: str,
    output: Path | str | None = None,
    *,
    checkpoint: str = "last",
    data_dir: Path | str = ".data",
    device: str = "auto",
    download: bool = True,
    progress: bool = False,
    overwrite: bool = False,
    licence: str | None = None,
) -> Packed:
    """Write `NAME.safetensors`, its model card `NAME.md`, and its entry in `index.json`.

    Tensors of two or more dimensions are stored in float16, the rest (batch norm, biases) in float32. The weights are
    read back from what is stored and evaluated on the whole test set in fp32, and so are the trained ones.

    Args:
        run: the folder of a finished run.
        name: MODEL-DATASET-VARIANT, such as `resnext29-cifar10-cpu`. MODEL-DATASET names the most accurate variant.
        output: the folder to write to, made if need be. By default, in a clone of this project, the package's own,
            from which names are looked up; where the package is installed, `weights` in the current folder.
        checkpoint: `last` or `best` of the run.
        data_dir: where the data set lies, or is downloaded to.
        device: `auto`, `cpu`, `cuda` …
        download: whether a missing data set may be fetched.
        progress: whether to show a download's progress.
        overwrite: replace what has this name.
        licence: of the weights, as the Hub calls it, such as `cc-by-4.0` (None: the card says none).

    Raises:
        InputError: the run has not finished, the name does not fit or is taken, the file would be above 10 MB, float16
            cannot hold a weight, or the rounding changes the number of correct images by more than a thousandth of
            the images (and more than one). Nothing has been written then.
    """
    folder = default_folder() if output is None else Path(output)
    record = _finished(Path(run))
    _check_name(name, record.config, folder, overwrite)
    torch_device = resolve_device(device)  # before anything is downloaded
    source = models.find_weights(run, checkpoint)
    state, metadata = models.read_weights(source)
    dataset = data.load_by(
        record.config.data, Path(data_dir), channels=models.input_channels(state), download=download, progress=progress
    )
    metadata = without_state(metadata)
    metadata |= {"name": name, "image_size": str(dataset.test.images.shape[-1])}
    origin = _origin(metadata, source, dataset)
    content = _stored(state, metadata, source)
    measured = measure(state, safetensors.torch.load(content), origin, dataset.test, torch_device, str(source))
    recipe = labelled(recipe_name(record.config), record.environment.not_of_recipe)
    entry = _entry(name, recipe, measured, content)
    load_as = name if _is_packages(folder) else (folder / entry.file).as_posix()
    _write(folder, entry, content, model_card(record, checkpoint, origin, entry, measured, load_as, licence))
    files = (folder / entry.file, folder / f"{name}.md", folder / INDEX)
    return Packed(entry=entry, measured=measured, files=files, load_as=load_as)


def default_folder() -> Path:
    """Return where `pack` writes by default: in a clone of the project the package's own folder, else `./weights`.

    An installed package is left alone: the next installation would delete what was packed there.
    """
    return catalog.WEIGHTS if _in_clone(catalog.WEIGHTS.parent) else Path("weights")


def _in_clone(package: Path) -> bool:
    """Return whether a package lies in `src` beside a `pyproject.toml` of its name."""
    try:
        project = tomllib.loads((package.parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or not TOML
        return False
    return package.parent.name == "src" and project.get("project", {}).get("name") == package.name


def _is_packages(folder: Path) -> bool:
    return folder.resolve() == catalog.WEIGHTS.resolve()


def format_packed(packed: Packed) -> str:
    """Return what was measured and written, in lines."""
    measured, scores, calibration = packed.measured, packed.measured.scores, packed.measured.calibration
    difference = round((scores.accuracy - measured.trained_accuracy) * scores.count)
    lines = [
        f"{packed.entry.name}: {packed.entry.bytes / 1e6:.2f} MB, {counted(scores.count, 'test image')} in {PRECISION}",
        f"accuracy {measured.trained_accuracy:.2%} as trained, {scores.accuracy:.2%} as stored: {difference:+d} "
        f"images, where {measured.limit} may change; {measured.changed} are classified differently",
        f"negative log-likelihood {calibration.nll:.4f}, Brier score {calibration.brier:.4f}, calibration error "
        f"{calibration.ece:.4f} ({calibration.bins} equal-width bins)",
    ]
    remark = near_chance(scores)
    lines += [f"warning: {remark}"] if remark else []
    place = "the package's own weights" if packed.load_as == packed.entry.name else packed.files[0].parent
    lines.append(f"written to {place}: load them by flatnext.from_pretrained({json.dumps(packed.load_as)})")
    return "\n".join([*lines, *map(str, packed.files)])


def _finished(folder: Path) -> RunRecord:
    require_run(folder)
    record = read_run(folder, folder.name)
    if isinstance(record, UnfinishedRun):
        raise InputError(f"{folder} has no result ({record.reason}): finish it with {RunFolder(folder).resume_command}")
    return record


def _check_name(name: str, config: Config, folder: Path, overwrite: bool) -> None:
    dataset = config.data.dataset
    if not re.fullmatch(rf"[a-z0-9][a-z0-9.-]*-{dataset}-[a-z0-9.]*[a-z0-9]", name):
        allowed = "small letters, digits and '.' (in MODEL also '-')"
        raise InputError(f"name is {name!r}: give MODEL-{dataset}-VARIANT of {allowed}")
    if not overwrite and any((folder / f"{name}{ending}").exists() for ending in (".safetensors", ".md")):
        raise InputError(f"{folder} has a {name} already: give another --name, or --overwrite")


def _origin(metadata: Mapping[str, Any], source: Path, dataset: data.Dataset) -> models.Origin:
    origin = models.read_origin(metadata, source)
    if origin is None or origin.classes != tuple(dataset.classes):
        raise InputError(f"{source} has other classes than the data, {', '.join(dataset.classes)}: give its --data-dir")
    if origin.data and (words := data.change_of_test(origin.data, dataset.test)):
        raise InputError(f"the data are not those of {source} ({words}): restore them")
    return origin


def _stored(state: Mapping[str, Tensor], metadata: Mapping[str, Any], source: Path) -> bytes:
    """Return the content of the weights file."""
    # Batch norm's statistics may be tiny or huge, and are only a fiftieth of the file.
    tensors = {key: (value.half() if value.ndim >= 2 else value).contiguous() for key, value in state.items()}
    for key, value in tensors.items():
        if not bool(torch.isfinite(value).all()):
            raise InputError(f"{source}: {key} does not fit into {value.dtype}: train again, with a lower --lr")
    content = safetensors.torch.save(tensors, dict(metadata))
    if len(content) > MOST_BYTES:
        raise InputError(f"{source}: packed it has {len(content) / 1e6:.1f} MB: at most {MOST_BYTES // 10**6} can ship")
    return content


def _entry(name: str, recipe: str, measured: Measured, content: bytes) -> Shipped:
    assert measured.scores.loss is not None  # `measure` refuses it
    return Shipped(
        name=name,
        recipe=recipe,
        accuracy=measured.scores.accuracy,
        loss=measured.scores.loss,
        count=measured.scores.count,
        first_count=measured.first_count,
        first_correct=measured.first_correct,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _write(folder: Path, entry: Shipped, content: bytes, card: str) -> None:
    """Write the three files. The index comes last, and before them without an entry whose file is about to change."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {folder}: {error.strerror}; choose another --output") from error
    before = _entries(folder)
    if entry.name in {packed.name for packed in before}:
        _write_index(folder, [packed for packed in before if packed.name != entry.name])
    files: dict[Path, bytes | str] = {folder / entry.file: content, folder / f"{entry.name}.md": card}
    new = [path for path in files if not path.exists()]
    try:
        for path, data in files.items():
            write_atomically(path, data)
        others = [packed for packed in _entries(folder) if packed.name != entry.name]  # one may be new
        _write_index(folder, [*others, entry])
    except BaseException:  # so that the same can be asked for again, also after Ctrl-C
        if entry not in _entries(folder):
            for path in new:
                path.unlink(missing_ok=True)
        raise


def _entries(folder: Path) -> list[Shipped]:
    return [packed for entries in shipped(folder).values() for packed in entries]


def _write_index(folder: Path, entries: list[Shipped]) -> None:
    """Write `index.json`: for each short name its entries, the most accurate first."""
    index: dict[str, list[Shipped]] = {}
    for entry in best_first(entries):
        index.setdefault(entry.short, []).append(entry)
    write_json(folder / INDEX, dump(dict(sorted(index.items()))))
