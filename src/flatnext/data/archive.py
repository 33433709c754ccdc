"""A published archive: downloaded, checked by its MD5, and unpacked whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flatnext.errors import InputError
from flatnext.files import open_regular
from flatnext.progress import ConsoleDisplay, Display
from flatnext.runs.lock import lock

BASE_URL = "https://www.cs.toronto.edu/~kriz/"
BLOCK = 1 << 20
PREFIX = ".unpacking-"
TIMEOUT = 60.0
"""Seconds that a server may be silent."""


@dataclass(frozen=True)
class Archive:
    """A tar.gz by its file name, its published MD5, and the folder that it unpacks to."""

    name: str
    md5: str
    folder: str


def fetch(archive: Archive, data_dir: Path, *, progress: bool = False) -> Path:
    """Download an archive and unpack it; return its folder in `data_dir`, which is made where it is missing.

    With `progress` a bar is shown. Where it fails, nothing is left behind, and an `InputError` names the URL.
    """
    url = BASE_URL + archive.name
    remedy = f"put {archive.name} into {data_dir} yourself, or give a --data-dir that has it"
    with _input_errors(url, remedy), _workspace(data_dir) as workspace:
        path = workspace / archive.name
        _download(url, path, progress=progress)
        return _unpack(path, archive, workspace, data_dir)


def unpack(archive: Archive, data_dir: Path) -> Path:
    """Unpack an archive that lies in `data_dir`; return its folder there. Fails as `fetch` does."""
    path = data_dir / archive.name
    remedy = "delete it to have it downloaded again, or put the published one there"
    with _input_errors(str(path), remedy), _workspace(data_dir) as workspace:
        return _unpack(path, archive, workspace, data_dir)


def md5(path: Path) -> str:
    """Return the MD5 of a file as a hexadecimal number."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


class _WrongContentError(Exception):
    """What is wrong with an archive that could be read."""


class _BrokenOffError(Exception):
    """How far a download came that ended early."""


def _unpack(path: Path, archive: Archive, workspace: Path, data_dir: Path) -> Path:
    if (digest := md5(path)) != archive.md5:
        raise _WrongContentError(f"has MD5 {digest}, not the published {archive.md5}")
    with tarfile.open(path) as tar:
        tar.extractall(workspace, filter="data")
    if not (workspace / archive.folder).is_dir():
        raise _WrongContentError(f"has no folder {archive.folder}")
    target = data_dir / archive.folder
    try:
        os.replace(workspace / archive.folder, target)
    except OSError:
        if not target.is_dir():  # else another process was faster, and its folder is the same
            raise
    return target


@contextmanager
def _input_errors(source: str, remedy: str) -> Iterator[None]:
    """Turn what may go wrong with `source` into an `InputError` of one line."""
    try:
        yield
    except _WrongContentError as error:
        raise InputError(f"{source} {error}: {remedy}") from None
    except _BrokenOffError as error:
        raise InputError(f"the download of {source} broke off {error}: try again, or {remedy}") from None
    except (tarfile.TarError, zlib.error, EOFError, http.client.HTTPException) as error:
        raise InputError(f"{source} is damaged ({type(error).__name__}): {remedy}") from None
    except OSError as error:  # of the disk, of the network, or an answer of the server, which is an open file
        reason = error.strerror or str(getattr(error, "reason", None) or type(error).__name__)
        if isinstance(error, urllib.error.HTTPError):
            reason = f"HTTP status {error.code}"
            error.close()
        raise InputError(f"{source} could not be fetched or unpacked ({reason}): {remedy}") from None


@contextmanager
def _workspace(data_dir: Path) -> Iterator[Path]:
    """Give a temporary folder in `data_dir`, so on the same disk; after a failure remove what was made for it."""
    missing = [folder for folder in (data_dir, *data_dir.parents) if not folder.exists()]
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        _clear_workspaces(data_dir)
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=data_dir) as workspace, lock(Path(workspace)):
            yield Path(workspace)
    except BaseException:
        with suppress(OSError):
            for folder in missing:
                folder.rmdir()
        raise


def _clear_workspaces(data_dir: Path) -> None:
    """Remove what processes have left that were killed; one that is at work has the lock of its folder."""
    for folder in data_dir.glob(f"{PREFIX}*"):
        with suppress(InputError, OSError), lock(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _download(url: str, path: Path, *, progress: bool) -> None:
    """Write what lies at a URL to a file."""
    display = ConsoleDisplay() if progress else Display()
    display.say(f"fetching {path.name}")
    request = urllib.request.Request(url, headers={"User-Agent": "flatnext"})
    with (
        urllib.request.urlopen(request, timeout=TIMEOUT) as response,
        path.open("wb") as file,
        display.task(path.name) as task,
    ):
        total = response.length
        try:
            while block := response.read(BLOCK):
                file.write(block)
                task(file.tell(), total or 1)
        except http.client.IncompleteRead:
            raise _BrokenOffError(f"after {file.tell():,} bytes") from None
        if total and file.tell() < total:  # which reading in blocks does not notice
            raise _BrokenOffError(f"after {file.tell():,} of {total:,} bytes")
