"""Versions of what is installed, and importing what only some features need."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from flatnext.errors import InputError


def version_of(package: str) -> str:
    """Return the version of an installed package; `not installed` where it is run from its source."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def import_extra(module: str, extra: str) -> ModuleType:
    """Return a module that the package's extra `extra` installs. `InputError`: it is not installed; says how."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # it is installed, and lacks something itself
        raise InputError(f"this needs {module}, which is not installed: pip install 'flatnext[{extra}]'") from None
