"""A published archive: downloaded, checked by its MD5, and unpacked whole or not at all."""

from __future__ import annotations

import hashlib
import logging
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flatnext.errors import InputError

BASE_URL = "https://www.cs.toronto.edu/~kriz/"


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
    import pooch  # imports `requests`, which only a download needs

    pooch.get_logger().setLevel(logging.WARNING)
    url = BASE_URL + archive.name
    remedy = f"put {archive.name} into {data_dir} yourself, or give a data_dir that has it"
    with _input_errors(url, remedy), _workspace(data_dir) as workspace, _progress_bar(archive.name, progress) as bar:
        downloader = pooch.HTTPDownloader(progressbar=bar)
        file = pooch.retrieve(url, known_hash=None, path=workspace, fname=archive.name, downloader=downloader)
        return _unpack(Path(file), archive, workspace, data_dir)


def unpack(archive: Archive, data_dir: Path) -> Path:
    """Unpack an archive that lies in `data_dir`; return its folder there. Fails as `fetch` does."""
    path = data_dir / archive.name
    remedy = "delete it to have it downloaded again, or put the published one there"
    with _input_errors(str(path), remedy), _workspace(data_dir) as workspace:
        return _unpack(path, archive, workspace, data_dir)


def md5(path: Path) -> str:
    """Return the MD5 of a file as a hexadecimal number."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


class _WrongContentError(Exception):
    """What is wrong with an archive that could be read."""


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
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise InputError(f"{source} is damaged ({type(error).__name__}): {remedy}") from None
    except OSError as error:  # of the disk, with an errno; or of `requests`, with or without a response
        response = getattr(error, "response", None)
        reason = error.strerror or type(error).__name__
        if response is not None:
            reason = f"HTTP status {response.status_code}"
            response.close()
        raise InputError(f"{source} could not be fetched or unpacked ({reason}): {remedy}") from None


@contextmanager
def _workspace(data_dir: Path) -> Iterator[Path]:
    """Give a temporary folder in `data_dir`, so on the same disk; after a failure remove what was made for it."""
    missing = [folder for folder in (data_dir, *data_dir.parents) if not folder.exists()]
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=data_dir) as workspace:
            yield Path(workspace)
    except BaseException:
        with suppress(OSError):
            for folder in missing:
                folder.rmdir()
        raise


@contextmanager
def _progress_bar(title: str, shown: bool) -> Iterator[Any]:
    """Give the progress bar that pooch reports to, or False."""
    if not shown:
        yield False
        return
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:  # a log gets a line
        console.print(f"fetching {title}", highlight=False)
    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.DownloadColumn())
    with progress.Progress(
        *columns, progress.TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        yield _Bar(bar, bar.add_task(title, total=None))


class _Bar:
    """A bar of rich with the members of tqdm's that pooch uses."""

    total = property(
        lambda self: self._bar.tasks[0].total or 0,
        lambda self, size: self._bar.update(self._task, total=size or None),
        doc="Bytes in all, as the server says; 0 where it does not.",
    )

    def __init__(self, bar: Any, task: Any) -> None:
        self._bar, self._task = bar, task
        self.update = partial(bar.advance, task)
        self.reset = partial(bar.update, task, completed=0)  # pooch ends on the exact number
        self.close = bar.refresh
