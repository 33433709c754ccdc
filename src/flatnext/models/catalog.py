"""The weights that ship with the package, by name, and finding a weights file by path or name.

The folder `weights` of the package has a safetensors file and a model card for each, and an index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flatnext.errors import InputError, alike, choose, warn_of_fallback
from flatnext.files import read_json, sha256
from flatnext.models import hub
from flatnext.runs.artifact import WEIGHTS as WANTED
from flatnext.runs.artifact import refusal
from flatnext.runs.folder import RunFolder
from flatnext.schema import parse

WEIGHTS = Path(__file__).parent.parent / "weights"
INDEX = "index.json"

CHECKPOINTS = ("last", "best")
"""Those of a run folder."""


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """One weights file: its size and SHA-256, and how the weights in it did on the test set, in single precision.

    `accuracy` (a fraction) and `loss` (mean cross-entropy) are over all `count` test images, and `first_correct` of
    the first `first_count`, in the order of the data set, are predicted correctly, which serves as a quick check.
    """

    name: str
    recipe: str
    accuracy: float
    loss: float
    count: int
    first_count: int
    first_correct: int
    bytes: int
    sha256: str

    @property
    def short(self) -> str:
        """The name that the best of several shares: `resnext29-cifar10` of `resnext29-cifar10-cpu`."""
        return self.name.rpartition("-")[0]

    @property
    def file(self) -> str:
        """The name of the weights file."""
        return f"{self.name}.safetensors"


def shipped(folder: Path | None = None) -> dict[str, tuple[Shipped, ...]]:
    """Return the weights in a folder (by default the package's), by short name, the most accurate first."""
    index = (folder or WEIGHTS) / INDEX
    if not index.is_file():
        return {}
    try:
        entries = parse(dict[str, tuple[Shipped, ...]], read_json(index))
    except InputError as error:
        raise InputError(f"{index} is damaged: install flatnext again, or pack the weights again") from error
    return {short: group for short, group in entries.items() if group}


def best_first(entries: list[Shipped]) -> list[Shipped]:
    """Sort by accuracy, then by loss, then by name."""
    return sorted(entries, key=lambda entry: (-entry.accuracy, entry.loss, entry.name))


def entry_of(name: str) -> Shipped | None:
    """Return the entry of a full name, or the best of a short one; None if there is none."""
    index = shipped()
    named = [entry for entries in index.values() for entry in entries if entry.name == name]
    return next(iter(named or index.get(name, ())), None)


def names() -> list[str]:
    """Return all names that can be given, short ones before the full ones they stand for."""
    return [name for short, entries in shipped().items() for name in (short, *(entry.name for entry in entries))]


def format_shipped(index: Mapping[str, Sequence[Shipped]]) -> str:
    """Return a table of the weights that ship: name, accuracy, size in MB (10^6 bytes), recipe."""
    if not index:
        return "no weights ship with this version: flatnext pack makes them from a finished run"
    rows = [("name", "accuracy", "test images", "MB", "recipe")]
    for short, entries in index.items():
        for entry in entries:
            figures = (f"{entry.accuracy:.2%}", f"{entry.count:,}", f"{entry.bytes / 1e6:.1f}")
            note = f"{entry.recipe}  (also: {short})" if entry is entries[0] else entry.recipe
            rows.append((entry.name, *figures, note))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:{a}{w}}" for cell, a, w in zip(row, "<>>><", widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def find_weights(path: Path | str, checkpoint: str | None = None) -> Path:
    """Return the weights file of a run folder, the file itself, or the one that ships under a name.

    A path that exists wins over a name. In a run folder it is `checkpoint`, `last` or `best` (None: `last`), in a
    folder of the Hub's layout its one file. `hf://user/name` is fetched from the Hub.

    Raises `InputError` if there is no such file, for a `checkpoint` of something that is not a folder, and for a
    shipped file that is missing or damaged.
    """
    path = Path(path)
    if checkpoint not in (None, *CHECKPOINTS):
        raise InputError(f"checkpoint is {checkpoint!r}: {choose(checkpoint, CHECKPOINTS)}")
    if path.is_dir():
        return _in_folder(path, checkpoint)
    address = hub.is_address(path) and not path.exists()
    entry = None if path.exists() else entry_of(str(path))
    if not (path.exists() or address or entry):
        close = alike(path, names())
        known = (
            choose(path, close)
            if close
            else f"one of {', '.join(names())}"
            if names()
            else "none ship with this version"
        )
        raise InputError(refusal(path, f"{WANTED} ({known})"))
    if checkpoint is not None:
        raise InputError(f"checkpoint is {checkpoint!r}: it is for run folders, and {path} is not one: leave it out")
    if address:
        return hub.download(path)
    return path if entry is None else _verified(WEIGHTS / entry.file, entry)


def is_shipped(path: Path) -> bool:
    """Return whether a file lies where the weights are that ship, whose SHA-256 is in the index."""
    return path.resolve().parent == WEIGHTS.resolve()


def _in_folder(folder: Path, checkpoint: str | None) -> Path:
    """Return the weights file in a folder; warn where it is of a run that has not finished."""
    file = folder / f"{checkpoint or 'last'}.safetensors"
    if checkpoint is None and not file.is_file() and (folder / hub.FILE).is_file():
        return folder / hub.FILE
    if not file.is_file():
        missing = f"{folder} has no {file.name}: its run has no {file.stem} checkpoint; give another, or another run"
        raise InputError(refusal(folder) or missing)
    run = RunFolder(folder)
    if run.started() and not run.finished():
        warn_of_fallback(f"{folder} has not finished: {run.done()} are in its {file.stem} checkpoint", once=True)
    return file


def _verified(path: Path, entry: Shipped) -> Path:
    """Return the path if its file has the SHA-256 of the index, else raise `InputError`."""
    try:
        digest = sha256(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): install flatnext again") from error
    if digest != entry.sha256:
        raise InputError(f"{path} is damaged: install flatnext again, or pack the weights again")
    return path
