"""The layout of a folder of images: which folder is for what, which images are in it, and what is left over."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flatnext.data.dataset import check_class_name
from flatnext.errors import InputError
from flatnext.listing import Listing, entries, hidden_entries, list_images, subfolders
from flatnext.pictures import is_picture
from flatnext.progress import printable
from flatnext.words import counted, listing, shortened

ROLES = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
"""The names of the folders of a divided data set, in lower case."""

NAMED = 5
"""Files that are not used are counted, and so many named."""


TABLES = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".xlsx", ".parquet")
"""The suffixes of files in which other programs keep labels."""

SPLIT = re.compile(r"(train|training|test|testing|val|valid|validation)([\W\d_].*)?", re.IGNORECASE | re.DOTALL)
"""The names of folders that hold class folders: `Training`, `test_set`, `val2`, but not `freight-train`."""


@dataclass(frozen=True, kw_only=True)
class LabelledFiles:
    """The image files in the class folders of `folder`, by class and sorted; and what else is in it."""

    folder: Path
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    others: tuple[Path, ...]
    hidden: tuple[Path, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """CLASS/FILE (or CLASS/FOLDER/FILE) of each image, which says which it is wherever the folder lies."""
        return tuple(path.relative_to(self.folder).as_posix() for path in self.paths)

    @property
    def nested(self) -> int:
        """The number of images that lie in folders of a class folder."""
        return sum(name.count("/") > 1 for name in self.names)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The images of a folder. `test` is None where it has to be taken from `train`, `validation` where there is none.

    `notes` say what is used for what where that is not plain, and what is not used.
    """

    classes: tuple[str, ...]
    train: LabelledFiles
    validation: LabelledFiles | None
    test: LabelledFiles | None
    notes: tuple[str, ...]


def read_layout(data_dir: Path) -> Layout:
    """List the images of a data set; `load_folder` says which folders count. No image is read as a whole."""
    folders = _by_role(data_dir)
    root = folders.pop("train", data_dir)
    labelled = {role: folder for role, folder in folders.items() if subfolders(folder)}
    flat = [folder for folder in folders.values() if not subfolders(folder)]
    notes = [f"{folder} is not used: its images are in no class folders" for folder in flat]
    _check_roles(data_dir, root, flat)
    classes = _class_folders(root, list(folders.values()))
    if "test" not in labelled and "validation" in labelled:
        labelled["test"] = labelled.pop("validation")
        notes.append(f"{labelled['test']} is the test set: there is no labelled folder test")
    if "validation" in labelled:
        notes.append(f"{labelled['validation']} holds the validation images")
    if root != data_dir and "test" not in labelled:
        raise InputError(
            f"{data_dir} has a folder {root.name} but no labelled images for the test: add {data_dir / 'test'} with "
            f"class folders, or give {root} as data_dir, of which a fifth of each class becomes the test set"
        )
    names = tuple(folder.name for folder in classes)
    train = list_labelled(root, names, classes)
    held_out = {role: _held_out(folder, names) for role, folder in labelled.items()}
    parts = (train, *held_out.values())
    used = (root, *folders.values())
    left_over = [path for path in entries(data_dir) if path not in (*used, *classes)]
    left_over += [path for files in parts for path in files.others if path not in used]
    hidden = [*hidden_entries(data_dir), *(path for files in parts for path in files.hidden)]
    return Layout(
        classes=names,
        train=train,
        validation=held_out.get("validation"),
        test=held_out.get("test"),
        notes=(*notes, *files_notes(data_dir, parts, left_over, hidden)),
    )


def list_labelled(
    folder: Path, classes: Sequence[str], listings: Mapping[Path, Listing] | None = None
) -> LabelledFiles:
    """List the images in a folder's class folders, of which some may be missing. `InputError`: there are none."""
    paths: list[Path] = []
    labels: list[int] = []
    others = [path for path in entries(folder) if not (path.is_dir() and path.name in classes)]
    hidden = hidden_entries(folder)
    for label, name in enumerate(classes):
        listing = (listings or {}).get(folder / name) or list_images(folder / name)
        paths += listing.images
        labels += [label] * len(listing.images)
        others += listing.others
        hidden += listing.hidden
    if not paths:
        raise InputError(f"{folder} holds no images: add some for each class")
    return LabelledFiles(
        folder=folder, paths=tuple(paths), labels=tuple(labels), others=tuple(others), hidden=tuple(hidden)
    )


def files_notes(
    folder: Path, parts: Sequence[LabelledFiles], left_over: Sequence[Path], hidden: Sequence[Path]
) -> list[str]:
    """Return lines on the images in nested folders and on the files that are not used, where there are any."""
    notes, place = [], printable(str(folder))
    if nested := sum(files.nested for files in parts):
        notes.append(f"in folders of a class folder, and counted for its class: {counted(nested, 'image')}")
    if unused := list(dict.fromkeys(left_over)):
        notes.append(f"not used in {place}, being no image in a class folder: {_counted(folder, unused)}")
    if hidden := list(dict.fromkeys(hidden)):
        notes.append(f"hidden and system files in {place} are not used: {_counted(folder, hidden)}")
    return notes


def _by_role(data_dir: Path) -> dict[str, Path]:
    """Return the folders of a divided data set that are there; their names may be in any letter case."""
    folders: dict[str, Path] = {}
    for role, names in ROLES.items():
        matching = [folder for folder in subfolders(data_dir) if folder.name.lower() in names]
        if len(matching) > 1:
            there = " and ".join(folder.name for folder in matching)
            raise InputError(f"{data_dir} has {there}: keep one of them for {role}, and move the other away")
        if matching:
            folders[role] = matching[0]
    return folders


def _check_roles(data_dir: Path, root: Path, flat: Sequence[Path]) -> None:
    """Raise `InputError` where a class may have the name of a part: images lie in it as in the class folders beside."""
    parts = {name for names in ROLES.values() for name in names}
    beside = [folder for folder in subfolders(data_dir) if folder.name.lower() not in parts]
    unlike = flat if root == data_dir else [] if subfolders(root) else [root]
    for part in unlike if beside else ():
        if list_images(part).images:
            raise InputError(
                f"{part} holds images beside class folders, and its name means a part of a divided data set: where it "
                "is a class, rename it; else move it away"
            )


def _class_folders(root: Path, apart: Sequence[Path]) -> dict[Path, Listing]:
    """Return the class folders in `root` but for those set apart, with what is in them.

    `InputError`: they are not two, have no images, or look like the parts of a divided data set.
    """
    folders = [folder for folder in subfolders(root) if folder not in apart]
    for folder in folders:
        check_class_name(folder.name, f"{root} has a class folder")
    listings = {folder: list_images(folder) for folder in folders}
    of_its_own = [folder for folder in folders if any(path.parent == folder for path in listings[folder].images)]
    like_splits = [folder for folder in folders if SPLIT.fullmatch(folder.name)]
    if like_splits and not of_its_own:
        there = _names([Path(folder.name) for folder in folders])
        raise InputError(
            f"{root} holds {there} with folders and no images in them: rename the folder to train on to train, that "
            "for the test to test (for validation: val), or give the folder of the class folders as data_dir"
        )
    require_class_folders(root, apart=apart)
    if len(folders) < 2:
        raise InputError(
            f"{root} has {counted(len(folders), 'class folder')}{''.join(f' ({folder.name})' for folder in folders)}: "
            f"give at least two, each with its images{_tables(root)}"
        )
    if empty := [folder for folder in folders if not listings[folder].images]:
        raise InputError(f"{empty[0]} holds no images: add some, or remove the folder")
    return listings


def require_class_folders(root: Path, apart: Sequence[Path] = ()) -> None:
    """Raise `InputError` for a folder that holds images and no folders but those set `apart`."""
    if any(folder not in apart for folder in subfolders(root)):
        return
    if loose := [path for path in entries(root) if is_picture(path)]:
        likewise = [printable(str(folder)) for folder in apart if not subfolders(folder)]
        raise InputError(
            f"{root} holds {counted(len(loose), 'image')} and no class folders: make a folder for each class there, "
            f"and move its images into it, as in {root / 'CLASS' / printable(loose[0].name)}"
            f"{f'; likewise in {listing(likewise)}' if likewise else ''}{_tables(root)}"
        )


def _tables(root: Path) -> str:
    """Return a note on tables in a folder, in which somebody may have the labels."""
    tables = [path.name for path in entries(root) if path.suffix.lower() in TABLES and path.is_file()]
    return f"; labels in a table ({shortened(map(printable, tables))}) are not read" if tables else ""


def _held_out(folder: Path, classes: Sequence[str]) -> LabelledFiles:
    unknown = [child for child in subfolders(folder) if child.name not in classes]
    for child in unknown:
        check_class_name(child.name, f"{folder} has a class folder")
        raise InputError(f"{child} is a class without training images: add them, or remove it")
    return list_labelled(folder, classes)


def _counted(folder: Path, paths: Sequence[Path]) -> str:
    return f"{len(paths):,} ({_names([path.relative_to(folder) for path in paths])})"


def _names(paths: Sequence[Path]) -> str:
    return shortened([printable(str(path)) for path in paths], NAMED)
