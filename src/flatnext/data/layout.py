"""The layout of a folder of images: which folder is for what, which images are in it, and what is left over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flatnext.data.dataset import check_class_name
from flatnext.data.images import entries, list_images, subfolders
from flatnext.errors import InputError

ROLES = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
"""The names of the folders of a divided data set, in lower case."""

NAMED = 5
"""Files that are not used are counted, and so many named."""


@dataclass(frozen=True, kw_only=True)
class LabelledFiles:
    """Image files by class, sorted, and what else is in their folders."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    others: tuple[Path, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """CLASS/FILE of each image, which says which image it is wherever the folder lies."""
        return tuple(f"{path.parent.name}/{path.name}" for path in self.paths)


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
    classes = _class_folders(root, list(folders.values()), flat)
    if "test" not in labelled and "validation" in labelled:
        labelled["test"] = labelled.pop("validation")
        notes.append(f"{labelled['test']} is the test set: there is no labelled folder test")
    if "validation" in labelled:
        notes.append(f"{labelled['validation']} holds the validation images")
    if root != data_dir and "test" not in labelled:
        raise InputError(
            f"{data_dir} has a folder {root.name} but no labelled images for the test: add {data_dir / 'test'} with "
            f"class folders, or give {root} as data_dir, of which a fifth becomes the test set"
        )
    names = tuple(folder.name for folder in classes)
    train = list_labelled(root, names)
    held_out = {role: _held_out(folder, names) for role, folder in labelled.items()}
    left_over = [path for path in entries(data_dir) if path not in (root, *folders.values(), *classes)]
    left_over += [path for files in (train, *held_out.values()) for path in files.others]
    left_over = [path for path in dict.fromkeys(left_over) if path not in folders.values()]
    return Layout(
        classes=names,
        train=train,
        validation=held_out.get("validation"),
        test=held_out.get("test"),
        notes=(*notes, *_left_over_note(data_dir, left_over)),
    )


def list_labelled(folder: Path, classes: Sequence[str]) -> LabelledFiles:
    """List the images in a folder's class folders, of which some may be missing. `InputError`: there are none."""
    paths: list[Path] = []
    labels: list[int] = []
    others = [path for path in entries(folder) if not (path.is_dir() and path.name in classes)]
    for label, name in enumerate(classes):
        images, rest = list_images(folder / name)
        paths += images
        labels += [label] * len(images)
        others += rest
    if not paths:
        raise InputError(f"{folder} holds no images: add some for each class")
    return LabelledFiles(paths=tuple(paths), labels=tuple(labels), others=tuple(others))


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


def _class_folders(root: Path, apart: Sequence[Path], flat: Sequence[Path]) -> list[Path]:
    """Return the class folders in `root` but for those set apart; `InputError`: they are not two, or have no images."""
    folders = [folder for folder in subfolders(root) if folder not in apart]
    for folder in folders:
        check_class_name(folder.name, f"{root} has a class folder")
    empty = [folder for folder in folders if not list_images(folder)[0]]
    nested = [folder for folder in empty if subfolders(folder)]
    if nested and nested == folders:
        there = _names([Path(folder.name) for folder in nested])
        raise InputError(
            f"{root} holds {there} with folders and no images in them: rename the folder to train on to train, that "
            "for the test to test (for validation: val), or give the folder of the class folders as data_dir"
        )
    if len(folders) < 2 and flat:
        raise InputError(
            f"{root} has {len(folders)} class folders beside {flat[0].name}, which is taken for images without labels: "
            "give at least two; where it is a class, rename it"
        )
    if len(folders) < 2:
        raise InputError(f"{root} has {len(folders)} class folders: give at least two, each with its images")
    if empty:
        raise InputError(f"{empty[0]} holds no images: add some, or remove the folder")
    return folders


def _held_out(folder: Path, classes: Sequence[str]) -> LabelledFiles:
    unknown = [child for child in subfolders(folder) if child.name not in classes]
    for child in unknown:
        check_class_name(child.name, f"{folder} has a class folder")
        raise InputError(f"{child} is a class without training images: add them, or remove it")
    return list_labelled(folder, classes)


def _left_over_note(data_dir: Path, paths: Sequence[Path]) -> list[str]:
    if not paths:
        return []
    relative = [path.relative_to(data_dir) for path in paths]
    return [f"not used in {data_dir}, being no image in a class folder: {len(paths)} ({_names(relative)})"]


def _names(paths: Sequence[Path]) -> str:
    shown = [_printable(path) for path in paths[:NAMED]]
    return ", ".join(shown) + (", ..." if len(paths) > NAMED else "")


def _printable(path: Path) -> str:
    """Return a path as a line can hold it: one that it cannot is written with escapes."""
    return str(path) if str(path).isprintable() else repr(str(path))
