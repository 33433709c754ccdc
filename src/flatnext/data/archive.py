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


def fetch(archive: Archive, data_dir: Path, *, base_url: str | None = None, progress: bool = False) -> Path:
    """Download an archive and unpack it; return its folder in `data_dir`, which is made where it is missing.

    `base_url` (default: `BASE_URL`) goes before the archive's name. Whatever goes wrong, nothing is left behind, and
    an `InputError` names the URL.
    """
    import pooch  # brings `requests`, which only a download needs

    pooch.get_logger().setLevel(logging.WARNING)
    url = (BASE_URL if base_url is None else base_url) + archive.name
    remedy = f"put {archive.name} into {data_dir} yourself, or give a data_dir that has it"
    with _named(url, remedy), _workspace(data_dir) as space, _progress_bar(archive.name, progress) as bar:
        downloader = pooch.HTTPDownloader(progressbar=bar)
        file = pooch.retrieve(url, known_hash=None, path=space, fname=archive.name, downloader=downloader)
        return _unpack(Path(file), archive, space, data_dir)


def unpack(archive: Archive, data_dir: Path) -> Path:
    """Unpack an archive that lies in `data_dir`; return its folder there. Fails as `fetch` does."""
    path = data_dir / archive.name
    remedy = "delete it to have it downloaded again, or put the published one there"
    with _named(str(path), remedy), _workspace(data_dir) as space:
        return _unpack(path, archive, space, data_dir)


class _RefusedError(Exception):
    """What is wrong with an archive that could be read."""


def _unpack(path: Path, archive: Archive, space: Path, data_dir: Path) -> Path:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != archive.md5:
        raise _RefusedError(f"has MD5 {found}, not the published {archive.md5}")
    with tarfile.open(path) as tar:
        tar.extractall(space, filter="data")
    if not (space / archive.folder).is_dir():
        raise _RefusedError(f"has no folder {archive.folder}")
    target = data_dir / archive.folder
    try:
        os.replace(space / archive.folder, target)
    except OSError:
        if not target.is_dir():  # where another process was faster, its folder is the same
            raise
    return target


@contextmanager
def _named(source: str, remedy: str) -> Iterator[None]:
    """Turn what may go wrong with `source` into an `InputError` of one line."""
    try:
        yield
    except _RefusedError as error:
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
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=data_dir) as space:
            yield Path(space)
    except BaseException:
        with suppress(OSError):
            for folder in missing:
                folder.rmdir()
        raise


@contextmanager
def _progress_bar(title: str, wanted: bool) -> Iterator[Any]:
    """Give what pooch reports progress to: an object as tqdm's bars are, which draws with rich; or False."""
    if not wanted:
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
    """The four members of tqdm's bar that pooch uses."""

    def __init__(self, bar: Any, task: Any) -> None:
        self._bar, self._task = bar, task

    @property
    def total(self) -> int:
        """Bytes in all, by the server's word; 0 where it does not say."""
        return self._bar.tasks[0].total or 0

    @total.setter
    def total(self, size: int) -> None:
        self._bar.update(self._task, total=size or None)

    def update(self, size: int) -> None:
        """Count `size` bytes more."""
        self._bar.advance(self._task, size)

    def reset(self) -> None:
        """Count from 0 again, as pooch does to end on the exact number."""
        self._bar.update(self._task, completed=0)

    def close(self) -> None:
        """Do nothing: the bar ends with the download."""
