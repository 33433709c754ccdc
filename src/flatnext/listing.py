"""The files in a folder: which are images, which are not, and what systems leave behind and hide. Without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flatnext.errors import InputError
from flatnext.pictures import is_picture
from flatnext.progress import printable

SYSTEM = (
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
    *("__macosx", "@eadir", "$recycle.bin", "lost+found", "__pycache__"),
)
"""Names, in lower case, of what file systems and file managers leave in a folder."""


ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
"""The suffixes of files that a data set is often packed in."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What is in a folder and the folders in it, each sorted: images, other files, and what is hidden or the system's.

    A hidden folder is one entry, and nothing in it is listed.
    """

    images: tuple[Path, ...] = ()
    others: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()


def require_folder(folder: Path) -> None:
    """Raise `InputError` for a data folder that does not exist or is a file, such as an archive."""
    if folder.is_dir():
        return
    remedy = "give a folder with a folder of images for each class as data_dir (--data-dir)"
    if folder.suffix.lower() in ARCHIVES and folder.exists():
        remedy = f"unpack it, and {remedy}"
    what = "is a file and not a folder" if folder.exists() else "is not a folder, as it does not exist"
    raise InputError(f"{printable(str(folder))} {what}: {remedy}")


def is_hidden(path: Path) -> bool:
    """Return whether a file or folder is hidden or a system's, by its name."""
    return path.name.startswith(".") or path.name.lower() in SYSTEM


def entries(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted, but for hidden and system files. `InputError`: it cannot be read."""
    return [path for path in _all_entries(folder) if not is_hidden(path)]


def hidden_entries(folder: Path) -> list[Path]:
    """Return the hidden and system files in a folder, sorted. `InputError`: it cannot be read."""
    return [path for path in _all_entries(folder) if is_hidden(path)]


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, but for hidden and system ones."""
    return [path for path in entries(folder) if path.is_dir()]


def list_images(folder: Path) -> Listing:
    """Return what is in a folder and the folders in it; nothing where there is no such folder.

    `flatnext.pictures.is_picture` says what an image is. A link to a folder that it lies in is no image, and not
    followed.
    """
    images: list[Path] = []
    others: list[Path] = []
    hidden: list[Path] = []

    def visit(place: Path, above: tuple[Path, ...]) -> None:
        above = (*above, place.resolve())
        for path in _all_entries(place):
            if is_hidden(path):
                hidden.append(path)
            elif not path.is_dir():
                (images if is_picture(path) else others).append(path)
            elif path.is_symlink() and path.resolve() in above:
                others.append(path)
            else:
                visit(path, above)

    if folder.is_dir():
        visit(folder, ())
    return Listing(images=tuple(sorted(images)), others=tuple(sorted(others)), hidden=tuple(sorted(hidden)))


def _all_entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}): make it readable, or remove it") from None
