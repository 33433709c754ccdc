"""What a path is that is not what a command takes, such as a picture in place of weights; and what to give instead."""

from __future__ import annotations

import zipfile
from pathlib import Path

from flatnext.errors import InputError
from flatnext.files import as_typed, is_address, open_regular
from flatnext.progress import printable
from flatnext.runs.folder import RunFolder, find_runs
from flatnext.runs.reading import STUDY
from flatnext.words import counted

WEIGHTS = "give a run folder, a weights file, or a name that flatnext weights lists"
RUN = "give the folder of a run"

ARCHIVES = (".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
TEXTS = (".csv", ".json", ".jsonl", ".md", ".py", ".toml", ".tsv", ".txt", ".xml", ".yaml", ".yml")
FOREIGN = (".ckpt.index", ".engine", ".gguf", ".h5", ".hdf5", ".keras", ".mlmodel", ".npy", ".npz", ".pb", ".tflite")

MOST_LOOKED_AT = 1000
"""Folders that are looked at to find runs."""


def refusal(path: Path, wanted: str = WEIGHTS, *, files: bool = True) -> str | None:
    """Return, in one line, what a path is and what to give instead; None where nothing speaks against it.

    `wanted` is what to give where that does not follow from what the path is; `files`: weights files are right.
    """
    found = _described(path, wanted, files)
    return None if found is None else f"{printable(as_typed(path))} {found[0]}: {found[1]}"


def require_run(folder: Path) -> None:
    """Raise `InputError` for a path that is not the folder of a run with a checkpoint."""
    if not RunFolder(folder).started():
        raise InputError(refusal(folder, RUN, files=False) or f"{folder} is not the folder of a run: {RUN}")


def _described(path: Path, wanted: str, files: bool) -> tuple[str, str] | None:
    if is_address(path):
        return "is an address on the web, and nothing is fetched from there", "download the file, and give its path"
    if not path.exists():
        return "does not exist", wanted
    return _folder(path, wanted) if path.is_dir() else _file(path, wanted, files)


def _folder(path: Path, wanted: str) -> tuple[str, str] | None:
    from flatnext.pictures import SUFFIXES, holds_pictures  # they need NumPy

    folder = RunFolder(path)
    if folder.is_run():
        return None if folder.started() else ("is a run without a checkpoint", f"begin it: {folder.resume_command}")
    if runs := find_runs(path, MOST_LOOKED_AT):
        what = "is a study with" if (path / STUDY).is_file() else "holds"
        return f"{what} {counted(len(runs), 'run')}", f"give one of them, such as {printable(str(runs[0]))}"
    if holds_pictures(path) or any(file.suffix.lower() in SUFFIXES for file in path.iterdir()):
        return "is a folder of pictures and no trained model", wanted
    return ("holds no run" if any(path.iterdir()) else "is empty"), wanted


def _file(path: Path, wanted: str, files: bool) -> tuple[str, str] | None:
    from flatnext.pictures import is_picture

    if not path.is_file():
        return "is no regular file", wanted
    suffix = path.suffix.lower()
    run = path.parent if RunFolder(path.parent).is_run() else None
    if run is not None and not (files and suffix == ".safetensors"):
        return "is a file of a run and no weights" if files else "is a file of a run", f"give the run, {run}"
    if suffix == ".onnx":
        given = "give the run folder or weights file that it was made from"
        return "is a model in ONNX, for predict, compare and serve", given
    if is_picture(path):
        return "is a picture and no trained model", wanted
    if suffix in ARCHIVES:
        return "is an archive", "unpack it, and give what is in it"
    if suffix in TEXTS or suffix in FOREIGN:
        return f"is no weights file of torch ({suffix})", wanted
    return _zip(path, wanted) or (None if files else ("is a file", wanted))


def _zip(path: Path, wanted: str) -> tuple[str, str] | None:
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile):
        return None
    inside = {name.partition("/")[2] for name in names}
    if "archive_format" in inside or "models/model.json" in inside:
        given = "give the run folder or weights file that it was made from, or export it --to onnx"
        return "is a model for torch.export.load, which no command here runs", given
    if "constants.pkl" in inside:
        return "is a model in TorchScript", "save its weights with torch.save(model.state_dict(), PATH), and give these"
    if "data.pkl" in inside:
        return None  # what torch.save wrote
    return "is a zip archive", f"unpack it, and {wanted}"
