"""What lies in a data folder, where nobody has named the data set."""

from __future__ import annotations

from pathlib import Path

from flatnext.data.cifar import LAYOUTS, lies_in
from flatnext.data.layout import require_class_folders
from flatnext.errors import InputError
from flatnext.listing import entries, require_folder
from flatnext.pictures import holds_pictures, is_picture
from flatnext.progress import printable
from flatnext.words import shortened

DOWNLOAD = "to download a data set there, name it (--dataset cifar10)"


def dataset_in(folder: Path) -> str:
    """Return the name of the data set in a folder: `folder` where it holds pictures, else that of CIFAR's files.

    `InputError`: the folder is missing or empty, or holds something else, or pictures in no class folders. A data set
    that nobody has named is not downloaded: the folder may be mistyped.
    """
    place = printable(str(folder))
    if not folder.exists():
        raise InputError(f"{place} does not exist: give a folder with a folder of pictures for each class; {DOWNLOAD}")
    require_folder(folder)
    inside = entries(folder)
    if holds_pictures(folder) or any(map(is_picture, inside)):
        require_class_folders(folder)
        return "folder"
    for name in LAYOUTS:
        if lies_in(name, folder):
            return name
    names = shortened([printable(path.name) for path in inside])
    what = f"holds no pictures and no CIFAR, but {names}" if inside else "is empty"
    raise InputError(f"{place} {what}: put a folder of pictures for each class there; {DOWNLOAD}")
