"""Which pictures somebody means: by files, folders, patterns, and what comes through standard input. Without torch."""

from __future__ import annotations

import codecs
import glob
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from flatnext.errors import InputError, warn_of_fallback
from flatnext.files import as_typed
from flatnext.listing import list_images
from flatnext.words import counted, shortened

STDIN = "-"
HEAD = 32  # bytes by which an image is told from a list of paths
TEXTUAL = re.compile(rb"GIF8|RIFF|P[1-7]\s")
"""How images begin that may have no zero byte there."""

MOST_OF_NAME = 4096
"""Bytes of a path."""

NAMED = 3
"""Files that are left out are counted, and so many named."""

Source = Path | BinaryIO
"""A file by its path, or one that is open."""


def find_pictures(arguments: Sequence[str], stdin: BinaryIO | None = None) -> list[Source]:
    """Return the pictures that the arguments name, in their order.

    Args:
        arguments: files, folders (with the folders in them), patterns such as `shots/**/*.jpg`, and `-` for `stdin`.
        stdin: an image, or a list of paths, one a line or each ended by a zero byte.

    A file that is given by name or pattern is taken for a picture whatever it is. In a folder, what is no image by its
    beginning or its suffix is left out, with a `FallbackWarning` that counts it. A pattern or folder that has none
    stands for itself among the files, and is missing when it is read. `InputError`: there is no picture at all.
    """
    found = [(argument, list(_expand(argument, stdin))) for argument in arguments]
    if not any(sources for _, sources in found):
        raise InputError(f"{' '.join(arguments)}: no pictures there: give files, or a folder or pattern that has some")
    return [source for argument, sources in found for source in sources or [_pattern(argument)]]


def name_of(source: Source) -> str:
    """Return what a source is called in answers."""
    return as_typed(source) if isinstance(source, Path) else STDIN


def _pattern(argument: str) -> Path:
    path = Path(argument).expanduser()
    return path / "*" if path.is_dir() else path


def _expand(argument: str, stdin: BinaryIO | None) -> Iterator[Source]:
    if argument == STDIN and stdin is not None:
        yield from _from_stdin(stdin)
        return
    try:
        path = Path(argument).expanduser()
    except RuntimeError:
        raise InputError(f"{argument!r} names the home folder of nobody: give another path") from None
    if path.is_dir():
        yield from _in_folder(path)
    elif not path.exists() and glob.has_magic(argument):
        for match in sorted(glob.glob(str(path), recursive=True)):
            found = Path(match)
            if not found.is_dir():
                yield found
    else:
        yield path


def _in_folder(folder: Path) -> Iterator[Path]:
    listing = list_images(folder)
    if listing.others:
        names = shortened((path.name for path in listing.others), NAMED)
        are = "is no image and is" if len(listing.others) == 1 else "are no images and are"
        warn_of_fallback(f"{folder}: {counted(len(listing.others), 'file')} {are} left out ({names})")
    yield from listing.images


def _from_stdin(stdin: BinaryIO) -> Iterator[Source]:
    content = stdin.read().removeprefix(codecs.BOM_UTF8)
    apart = b"\0" if b"\0" in content else b"\n"  # `find -print0`
    first = content.partition(apart)[0].rstrip(b"\r")
    if (b"\0" in content[:HEAD] or TEXTUAL.match(content)) and not _exists(first):
        yield io.BytesIO(content)
        return
    for line in content.split(b"\0") if apart == b"\0" else content.splitlines():
        if line.strip():
            yield Path(os.fsdecode(line))


def _exists(path: bytes) -> bool:
    """Return whether there is a file of this name, so that it begins a list, whatever it looks like."""
    return 0 < len(path) <= MOST_OF_NAME and os.path.exists(path)
