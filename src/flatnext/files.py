"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import stat
from pathlib import Path
from typing import Any

from flatnext.errors import InputError

REMEDY = "free the disk or choose another folder"


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file under a temporary name beside it, flush it to the disk, and only then give it its name.

    Whoever reads `path`, after a kill or a power cut too, finds the old content or the new. Raises `InputError` if
    the disk is full or the folder cannot be written; the old file is kept and the temporary one removed.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            with contextlib.suppress(OSError):  # a file that is there keeps who may read it
                os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; {REMEDY}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_output(path: Path, content: bytes | str) -> None:
    """Write a file that somebody has asked for, in a folder that is made if need be. `InputError`: that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {path.parent}: {error.strerror}; choose another folder") from error
    write_atomically(path, content)


def require_new(path: Path, *, overwrite: bool) -> None:
    """Raise `InputError` where a file to be written is a folder, or is there and shall not be overwritten."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the name of a file")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists: give another name, or --overwrite")


def copy_atomically(source: Path, target: Path) -> None:
    """Let `target` have the content of `source`, by a second name for it where the file system has links.

    Files that `write_atomically` writes are never changed in place, so that neither changes with the other. Raises
    `InputError` as that does; `target` then has what it had.
    """
    temporary = _temporary(target)
    try:
        try:
            os.link(source, temporary)
        except OSError:  # a file system without links, or between two
            shutil.copyfile(source, temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror}; {REMEDY}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)  # it is still there where both were the same file


def _temporary(path: Path) -> Path:
    """Return a name beside a file that no other process takes, on this machine or another."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries, where the system can: a new name survives a power cut only then."""
    with contextlib.suppress(OSError):  # the file has its new name already, so that there is nothing to undo
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Delete what a write that was killed has left in a folder."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically. A number that is not finite is an error, since JSON has none."""
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def as_typed(path: Path | str) -> str:
    """Return a path as it was typed: `Path` makes one slash of the two of an address on the web."""
    return re.sub(r"^(\w+):/(?!/)", r"\1://", str(path))


def as_file_name(text: str) -> str:
    """Return a name that a file of others gives as the name of a file, which is visible and in no other folder."""
    return re.sub(r"[^\w.+-]+", "-", text).strip(".-") or "model"


def is_address(path: Path | str) -> bool:
    """Return whether a path is an address on the web, which no file here has as its name."""
    return re.match(r"https?:/", str(path)) is not None and not Path(path).exists()


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file to read its bytes. `InputError`: it is a pipe, socket, device or folder, on which reading may wait.

    A file that is missing or may not be read is an `OSError`, as of `open`.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise InputError(f"{path} is not a regular file: give one, not a folder, pipe, socket or device")
    return open(path, "rb")


def read_text(path: Path) -> str:
    """Return what a regular file of UTF-8 holds. One that cannot be read is an `OSError` or `UnicodeDecodeError`.

    The mark of a byte order, with which some editors begin a file, is no part of it.
    """
    with open_regular(path) as file:
        return file.read().decode("utf-8-sig")


def read_json(path: Path) -> Any:
    """Return what a JSON file holds. Raises `InputError` naming the file if it is missing or damaged."""
    try:
        return json.loads(read_text(path))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}): restore the file or delete the run") from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits. A file that cannot be read is an `OSError`."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
