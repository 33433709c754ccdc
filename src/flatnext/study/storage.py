"""A folder on storage that several machines reach, by a path or any URL of fsspec, and copies of run folders in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from flatnext.errors import InputError
from flatnext.files import write_atomically
from flatnext.runs.reading import CONFIG, FAILURE, RESULT

ORDER = (CONFIG, "state-*.pt", "previous.safetensors", "best.safetensors", "*", RESULT)
"""In which files are copied: what names another comes after it, so that a copy that is cut short is of one moment."""

PASSING = ("state-*.pt", "previous.safetensors", FAILURE)
"""What a run deletes itself."""


ATTEMPT = ".attempt"
"""The file in the folder of a run by which a process that was thought lost sees that another makes it."""


class StorageError(OSError):
    """The storage does not answer as it should; says which and why."""


class Storage:
    """A folder on storage. `url` names it on every machine: that of a folder of this one begins with `file://`."""

    def __init__(self, url: str) -> None:
        try:
            # An instance of its own: what one thread writes is no part of what another does.
            self.files, self.root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
        except (ImportError, ValueError) as error:
            raise InputError(f"--storage {url}: {' '.join(str(error).split())}") from error
        self.local = isinstance(self.files, LocalFileSystem)
        self.url = f"file://{self.root}" if self.local else url
        self._written: dict[Path, tuple[int, int]] = {}

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all as far as the storage can do that."""
        path = self._at(name)
        with self._answering():
            self.files.makedirs(path.rpartition("/")[0], exist_ok=True)
            if self.local:
                write_atomically(Path(path), content)
                return
            with self.files.transaction, self.files.open(path, "wb") as file:
                file.write(content)

    def read(self, name: str) -> bytes | None:
        """Return what a file holds; None if there is none."""
        with self._answering():
            self.files.invalidate_cache()
            try:
                return self.files.cat_file(self._at(name))
            except FileNotFoundError:
                return None

    def remove(self, name: str) -> None:
        """Delete a file; one that is not there is no error."""
        with self._answering(), suppress(FileNotFoundError):
            self.files.rm_file(self._at(name))

    def names(self, folder: str) -> list[str]:
        """Return the files in and below a folder but for those with a dot before their names, by their paths there.

        Where there is no such folder there are none.
        """
        top = self._at(folder) + "/"
        with self._answering():
            self.files.invalidate_cache()
            names = [path.removeprefix(top) for path in self.files.find(top)]
        return [name for name in names if not name.rpartition("/")[2].startswith(".")]

    def push(self, folder: Path, name: str) -> None:
        """Send what is new in a run's folder to the folder `name`, and delete there what the run has deleted here."""
        here = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
        for relative in sorted(here, key=_place):
            with suppress(FileNotFoundError):  # of a checkpoint that the next one has replaced
                facts = here[relative].stat()
                stamp = (facts.st_mtime_ns, facts.st_size)
                if self._written.get(here[relative]) != stamp:
                    self.write(f"{name}/{relative}", here[relative].read_bytes())
                    self._written[here[relative]] = stamp
        for relative in self.names(name):
            if relative not in here and _passes(relative):
                self.remove(f"{name}/{relative}")

    def pull(self, name: str, folder: Path) -> bool:
        """Bring what is in the folder `name` into a run's folder; False, and nothing, where there is nothing.

        What the run has deleted there is deleted here, and nothing else.
        """
        names = self.names(name)
        for relative in sorted(names, key=_place):
            path, content = folder / relative, self.read(f"{name}/{relative}")
            if content is not None and not (path.is_file() and path.read_bytes() == content):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, content)
        for path in _files(folder) if names else ():
            relative = path.relative_to(folder).as_posix()
            if _passes(relative) and relative not in names:
                path.unlink()
        return bool(names)

    def clear(self, name: str) -> None:
        """Delete the folder `name`: its result first, so that half of it is no finished run."""
        for relative in sorted(self.names(name), key=_place, reverse=True):
            self.remove(f"{name}/{relative}")

    def _at(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Say what the storage answers in one line, whatever library it comes from."""
        try:
            yield
        except Exception as error:
            words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise StorageError(f"the storage {self.url} does not answer as it should ({words})") from error


def _files(folder: Path) -> list[Path]:
    """Return the files of a run: locks and what is half-written have names with a dot before them."""
    return [Path(root) / name for root, _, names in os.walk(folder) for name in names if not name.startswith(".")]


def _place(relative: str) -> tuple[int, str]:
    exact = [place for place, pattern in enumerate(ORDER) if pattern != "*" and Path(relative).match(pattern)]
    return (exact or [ORDER.index("*")])[0], relative


def _passes(relative: str) -> bool:
    return "/" not in relative and any(Path(relative).match(pattern) for pattern in PASSING)
