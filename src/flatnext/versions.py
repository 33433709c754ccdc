"""Versions of what is installed and of this clone, and importing what only some features need."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

from flatnext.errors import InputError


def version_of(package: str) -> str:
    """Return the version of an installed package; `not installed` where it is run from its source."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def commit(clone: Path = Path(__file__).parents[2]) -> str | None:
    """Return the commit of the clone that the package runs from, with `-dirty` where its files differ from it.

    None where the package is installed without one, or there is no git.
    """
    if not (clone / ".git").exists():  # git would look in the folders above, which may be somebody else's clone
        return None
    import subprocess  # here, as `--help` does without it

    command = ["git", "-C", str(clone), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def import_extra(module: str, extra: str) -> ModuleType:
    """Return a module that the package's extra `extra` installs. `InputError`: it is not installed; says how."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # it is installed, and lacks something itself
        way = f"in the clone of FlatNeXt: pip install '.[{extra}]'"
        raise InputError(f"this needs {module}, which is not installed; {way}") from None
