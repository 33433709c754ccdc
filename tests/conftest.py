"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest
from places import REPOSITORY


@pytest.fixture(scope="session")
def cifar10_dir() -> Path:
    """Return the folder that holds the published CIFAR-10 files, or skip."""
    folder = Path(os.environ.get("FLATNEXT_DATA", REPOSITORY / ".data"))
    if not (folder / "cifar-10-batches-py").is_dir():
        pytest.skip("the published CIFAR-10 files are not here: set FLATNEXT_DATA to their folder")
    return folder
